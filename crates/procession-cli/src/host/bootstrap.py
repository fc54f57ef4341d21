# Run by `python -c` with the numbers of two descriptors; any Python, however old, must be able to read this.
# `-c` puts the current directory first on the path, where a user's queue.py would hide the standard library's.
import sys

if sys.path and sys.path[0] == "":
    del sys.path[0]
try:
    from procession._command_host import main
except Exception:
    import json
    import os

    error = sys.exc_info()[1]
    fatal = {"kind": "no_package", "message": type(error).__name__ + ": " + str(error)}
    os.write(int(sys.argv[2]), (json.dumps({"fatal": fatal}) + "\n").encode("ascii"))
    sys.exit(3)
main()
