"""`serve`: publish the mirror by HTTP."""

from __future__ import annotations

import argparse

from tcgamirror.cli import output
from tcgamirror.cli.common import open_mirror
from tcgamirror.model.errors import ExitCode
from tcgamirror.web.server import serve


def do_serve(args: argparse.Namespace) -> ExitCode:
    mirror = open_mirror(args)

    def announce(address: str, reachable: bool) -> None:
        print(f"{mirror.root} is at {address} until Ctrl-C", flush=True)
        if reachable:
            output.say(
                f"--host {args.host}: everyone who can reach it can read this mirror without a "
                "password. Leave out --host to keep it to this machine"
            )

    return serve(mirror.root, args.host, args.port, announce)
