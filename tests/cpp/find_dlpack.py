# SPDX-License-Identifier: Apache-2.0
"""Print the path of a dlpack.h that an installed package carries; nothing when there is none."""

import importlib.util
from pathlib import Path

CANDIDATES = [("torch", "include/ATen/dlpack.h"), ("jaxlib", "include/dlpack/dlpack.h")]


def main() -> None:
    """Look without importing: importing torch takes seconds."""
    for package, header in CANDIDATES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / header).is_file():
                print(Path(folder) / header)
                return


if __name__ == "__main__":
    main()
