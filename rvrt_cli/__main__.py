# SPDX-License-Identifier: Apache-2.0
"""`python -m rvrt_cli`: the same as `rvrt`, for any interpreter."""

from rvrt_cli.cli import main

if __name__ == "__main__":
    main()
