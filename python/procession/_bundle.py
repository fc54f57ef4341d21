"""What a spawned interpreter imports first, found and read once for all of them.

Half of the time that a spawned process needs until it runs its target goes into finding and reading the files of some
fifty modules of the standard library. A process that spawns more than once reads them once itself: their code lies in one
anonymous file, which spawned interpreters inherit, and there an importer in front of the others takes it from. Modules
are the same in every other way, and what is not in the bundle is found as ever.
"""

import os
import sys

__all__ = ()

# What `multiprocessing.spawn` and this package import, in any of the versions of Python that we know. What the parent has
# not imported is left out.
_NAMES = (
    *(
        "__future__",
        "_collections_abc",
        "_compat_pickle",
        "_weakrefset",
        "bisect",
        "collections",
        "collections.abc",
        "contextlib",
    ),
    *("copyreg", "enum", "fnmatch", "functools", "hashlib", "importlib", "importlib._abc", "importlib.abc"),
    *("importlib.machinery", "importlib.util", "keyword", "linecache", "locale", "operator", "pickle", "pkgutil"),
    *("random", "re", "re._casefix", "re._compiler", "re._constants", "re._parser", "reprlib", "runpy", "selectors"),
    *("shutil", "signal", "socket", "sre_compile", "sre_constants", "sre_parse", "struct", "subprocess", "tempfile"),
    *("threading", "token", "tokenize", "traceback", "types", "typing", "warnings", "weakref", "zipimport"),
    *("multiprocessing", "multiprocessing.context", "multiprocessing.process", "multiprocessing.reduction"),
    *("multiprocessing.resource_tracker", "multiprocessing.spawn", "multiprocessing.util"),
    *("multiprocessing.connection", "multiprocessing.popen_fork", "multiprocessing.popen_spawn_posix"),
    *("procession", "procession.context", "procession.errors", "procession.process"),
    *("_bisect", "_multiprocessing", "_opcode", "_pickle", "_posixshmem", "_posixsubprocess", "_random", "_socket"),
    *("_struct", "_typing", "array", "fcntl", "math", "select"),
)

# Runs in the spawned interpreter, before anything is imported: what it uses is part of every interpreter.
_IMPORTER = """
import sys, _frozen_importlib, _frozen_importlib_external

class _Loader(_frozen_importlib_external.SourceFileLoader):
    def get_code(self, name):
        entry = _bundle.get(name)
        if entry is None or entry[0] is None:
            return super().get_code(name)
        return _loads(entry[0])

class _Bundle:
    is_bundle_of_procession = True

    @staticmethod
    def find_spec(name, path=None, target=None):
        entry = _bundle.get(name)
        if entry is None:
            return None
        code, origin, cached, locations = entry
        make = _Loader if code is not None else _frozen_importlib_external.ExtensionFileLoader
        spec = _frozen_importlib.ModuleSpec(name, make(name, origin), origin=origin, is_package=locations is not None)
        spec._set_fileattr = True
        if locations is not None:
            spec.submodule_search_locations = locations
        if code is not None:
            spec.cached = cached
        return spec

sys.meta_path.insert(0, _Bundle)
"""

_spawned_before = False
_descriptor = None
_length = 0


def _make():
    import marshal

    # What runs the main module, which a parent need not have imported.
    import pkgutil  # noqa: F401
    from importlib.machinery import ExtensionFileLoader, SourceFileLoader

    bundle = {}
    for name in _NAMES:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if spec is None or not spec.has_location or not os.path.isabs(spec.origin or ""):
            continue
        locations = spec.submodule_search_locations
        if type(spec.loader) is SourceFileLoader:
            code = marshal.dumps(spec.loader.get_code(name))
        elif type(spec.loader) is ExtensionFileLoader:
            code = None
        else:
            continue
        bundle[name] = (code, spec.origin, spec.cached, None if locations is None else list(locations))
    importer = compile(_IMPORTER, "<procession's bundle>", "exec")
    return marshal.dumps((importer, bundle))


def descriptor():
    """The descriptor of the bundle; None if this process has not spawned before, or cannot have one."""
    global _spawned_before, _descriptor, _length
    if _descriptor is None:
        if not _spawned_before:
            # Making it costs as much as it saves once.
            _spawned_before = True
            return None
        try:
            data = _make()
            made = os.memfd_create("procession-bundle")
            os.write(made, data)
            _descriptor, _length = made, len(data)
        except (OSError, ImportError, SyntaxError, ValueError):
            _descriptor = -1
    return None if _descriptor < 0 else _descriptor


def program():
    """The lines with which a program given by `-c` begins that uses the bundle."""
    return (
        f"import sys\nif sys.hexversion == {sys.hexversion}:\n"
        " from marshal import loads; from posix import close, pread\n"
        f" importer, bundle = loads(pread({_descriptor}, {_length}, 0)); close({_descriptor})\n"
        " exec(importer, {'_bundle': bundle, '_loads': loads}); del importer, bundle, loads, close, pread\n"
    )
