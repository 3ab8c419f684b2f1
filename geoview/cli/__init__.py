"""The command line: verbs, and what is said when one fails. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from geoview.cli import index, locate, render, verbs
from geoview.cli.arguments import BAD_USAGE, SOME_FAILED, Namespace, make_parser
from geoview.errors import GeoviewError
from geoview.files import full_disk_told

__all__ = ["main", "run"]

_VERBS: dict[str, Callable[[Namespace], int]] = {
    "demo": render.demo,
    "train": verbs.train,
    "index build": index.build,
    "index add": index.add,
    "index info": index.info,
    "index remove": index.remove,
    "index merge": index.merge,
    "index calibrate": index.calibrate,
    "index tune": index.tune,
    "index verify": index.verify,
    "index vacuum": index.vacuum,
    "locate": locate.locate,
    "evaluate": verbs.evaluate,
    "benchmark": verbs.benchmark,
    "serve": verbs.serve,
    "render region": render.region,
    "render photos": render.photos,
    "render dataset": render.dataset,
    "info": verbs.info,
}


def run() -> NoReturn:
    """Runs the command that this process was started for, and ends it with its exit code.

    What PyTorch has brought is not taken apart object by object then, which takes a second and more when all is done.
    """
    code: list[int] = []

    def end() -> None:
        if code:  # or else an exception is to be told
            with suppress(OSError):  # of which `main` has told
                print(end="", flush=True)
            os._exit(code[0])

    atexit.register(end)  # before all others, and so called after them
    code.append(main())
    sys.exit(code[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments; None takes the process's own.

    Returns:
        Exit code: 0 all well, 1 some inputs failed (each is named), 2 nothing could be done.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    verb = arguments[arguments.subcommand]
    action = arguments.subcommand
    if action in ("index", "render"):
        action, verb = f"{action} {verb.subcommand}", verb[verb.subcommand]
    talk = logging.StreamHandler(sys.stderr)
    talk.setFormatter(logging.Formatter("geoview: %(message)s"))
    logging.getLogger("geoview").addHandler(talk)
    logging.getLogger("geoview").setLevel(logging.INFO)
    warnings.showwarning = _show_warning
    # rasterio's; `tiles` says the same as an error, with the way out.
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")
    try:
        with full_disk_told(Path(action)):
            code = _VERBS[action](verb)
            print(end="", flush=True)
        return code
    except KeyboardInterrupt:
        print("geoview: interrupted; the same command goes on where it can", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return SOME_FAILED
    except Exception as error:
        if arguments.verbose:
            traceback.print_exc()
        elif not _is_users(error):
            raise
        print(f"geoview: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_USAGE
    finally:
        logging.getLogger("geoview").removeHandler(talk)


def _is_users(error: Exception) -> bool:
    # `tiles` is only in memory when something can have raised its errors.
    tiles = sys.modules.get("tiles")
    return isinstance(error, GeoviewError) or (tiles is not None and isinstance(error, tiles.TilesError))


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"geoview: warning: {message}", file=sys.stderr)
