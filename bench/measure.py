"""Measures one contestant in one row, in a process of its own: ``python measure.py REQUEST.json``.

The request names the row's function, the contestant and the parameters; each figure is appended to the output file as a
line of JSON the moment it is known. Started by ``run.py``; under ``spawn`` and ``forkserver`` it is also the ``__main__``
that every worker imports, so nothing is imported here that a worker would have to wait for.
"""

import os
import sys


def main() -> None:
    import json

    with open(sys.argv[1]) as file:
        request = json.load(file)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def write(**line: object) -> None:
        os.write(output, (json.dumps(line) + "\n").encode())

    def record(key: str, value: object, **details: object) -> None:
        write(figure=key, value=value, **details)

    import importlib

    import contestants
    import measurements

    module = importlib.import_module(request.get("module", "measurements"))

    try:
        contestant = contestants.make(request["contestant"])
        getattr(module, request["function"])(contestant, record, **request["parameters"])
    except contestants.Unsupported as error:
        write(end="unsupported", detail=str(error))
    except measurements.WrongAnswer as error:
        write(end="wrong", detail=str(error))
    except BaseException as error:
        import traceback

        traceback.print_exc()
        write(end="error", detail=f"{type(error).__name__}: {error}"[:500])
    else:
        write(end="done")
    # Whatever a library does when the interpreter ends is not measured, and must not be waited for.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
