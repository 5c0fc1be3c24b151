"""Import every module of the installed package; only torch may be missing."""

import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import mammovae

place = Path(mammovae.__file__).resolve()
if Path(sys.prefix).resolve() not in place.parents:
    raise SystemExit(f"{place} is not of the environment {sys.prefix}")
imported, without_torch = 0, 0
for module in walk_packages(mammovae.__path__, "mammovae."):
    try:
        import_module(module.name)
        imported += 1
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        without_torch += 1
counts = f"{imported} modules of the wheel imported, {without_torch} not, for want of torch"
print(f"Python {sys.version.split()[0]}: {counts}")
