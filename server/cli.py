"""The ``suffice`` command: its sub-commands, each in a file of ``commands``."""

from __future__ import annotations

import typer
from suffice.server.commands import calibrate, doctor, keys, plan, replay, serve, up

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Spend what suffices: budgets before vLLM."
)
app.command("serve")(serve.serve)
app.command("up")(up.up)
app.command("calibrate")(calibrate.calibrate_command)
app.command("doctor")(doctor.doctor)
app.command("replay")(replay.replay)
app.add_typer(keys.keys_app, name="keys")
app.add_typer(plan.plan_app, name="plan")


def main() -> None:
    """Run the command line."""
    app()
