"""Run the benchmarks of the data stages: all, or those named.

python -m benchmarks.data [name ...]
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil

import benchmarks.data


def main() -> None:
    """Run them one after the other; each prints its table and writes it to the results."""
    found = {
        module.name: importlib.import_module(f"benchmarks.data.{module.name}")
        for module in pkgutil.iter_modules(benchmarks.data.__path__)
        if not module.name.startswith("__")
    }
    known = {name: module.run for name, module in found.items() if hasattr(module, "run")}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(known))
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    for name in names or known:
        known[name]()


if __name__ == "__main__":
    main()
