"""How a command starts and how it fails: one clear line for a user's mistake, exit code 2."""

import contextlib
import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from siglip import config as cfg
from siglip import environment
from siglip.config import Config, UserError, from_dict, validate
from siglip.config.values import kind_name


@contextlib.contextmanager
def user_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn a `UserError` into a line on stderr and its exit code (2), an interrupt into 130."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except cfg.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)


def run(main: Callable[[], None], interrupted: str = "interrupted") -> None:
    """Parse absl flags, then call `main`; `interrupted` is what an interrupt prints."""
    from absl import app, flags, logging

    def parse(argv: list[str]) -> list[str]:
        with user_errors():
            if any(arg in ("-h", "--help", "-help") for arg in argv):
                print(_help(argv))
                sys.exit(0)
            rest = _parse(flags.FLAGS, argv)
            if flags.FLAGS["verbosity"].using_default_value:
                flags.FLAGS.verbosity = logging.WARNING  # libraries report every detail as INFO
        return rest

    def guarded_main(_: list[str]) -> None:
        with user_errors(interrupted):
            main()

    environment.calm_libtpu()
    app.run(guarded_main, flags_parser=parse)


def _parse(values, argv: list[str]) -> list[str]:
    """Set absl flags from the command line; what is wrong with it is a `UserError`."""
    from absl import flags

    try:
        rest = values(argv)
    except flags.Error as error:
        text = str(error)
        if "Traceback" in text:  # of the recipe: its last line says what is wrong
            reason = text.strip().splitlines()[-1]
            raise UserError(
                f"--config: {reason}; check the recipe's argument, or repair the recipe"
            ) from None
        if missing := re.match(r"flag --(\w+)=None: ", text):
            raise UserError(f"--{missing[1]}: not given; see --help") from None
        raise UserError(_mistyped(values, text) or f"{_one_line(error)}; see --help") from None
    except UserError:
        raise
    except Exception as error:  # a recipe is a program
        unknown = _unknown_field(argv)
        reason = " ".join(str(error).split())
        broken = f"--config: {type(error).__name__}: {reason}; repair the recipe"
        raise UserError(unknown or broken) from None
    if rest[1:]:
        raise UserError(f"unexpected argument {rest[1]!r}; options start with --")
    return rest


def _mistyped(values, text: str) -> str | None:
    """An override whose value is of another kind than its field's."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", text)
    if match is None:
        return None
    *sections, name = match[1].split(".")
    section = values["config"].value
    for part in sections:
        section = section[part]
    return f"config.{match[1]}={match[2]!r}: must be {kind_name(section.get_type(name))}"


def _unknown_field(argv: Sequence[str]) -> str | None:
    """The first override of a field that the recipe does not have.

    Raises:
      UserError: it is the recipe by itself that cannot be read.
    """
    if not (overrides := [arg for arg in argv if arg.startswith("--config.")]):
        return None
    recipe = _values(_flag(_recipe(argv), ()))
    for override in overrides:
        field, where = recipe, "config"
        for name in override.partition("=")[0].split(".")[1:]:
            if not isinstance(field, dict):
                return f"{where}.{name}: no such field; set {where} itself"
            if name not in field:
                return f"{where}.{name}: unknown field{cfg.did_you_mean(name, field)}"
            field, where = field[name], f"{where}.{name}"
    return None


def _recipe(argv: Sequence[str]) -> str | None:
    if "--config" in argv[:-1]:
        return argv[argv.index("--config") + 1]
    return next((arg.partition("=")[2] for arg in argv if arg.startswith("--config=")), None)


def config_of(recipe: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of `path[:argument]` with `--config.field=value` overrides."""
    return read_config(_flag(recipe, overrides))


def _flag(recipe: str, overrides: Sequence[str]):
    from absl import flags
    from ml_collections import config_flags

    values, argv = flags.FlagValues(), ["siglip", f"--config={recipe}", *overrides]
    flag = config_flags.DEFINE_config_file(
        "config", None, "Recipe.", flag_values=values, sys_argv=argv
    )
    _parse(values, argv)
    return flag


def read_config(flag, workdir: str | None = None) -> Config:
    """The value of a `--config` flag as a valid `Config`.

    A recipe may leave fields of the model None: they are taken from the run in `workdir`, if there
    is one to be continued, or from the checkpoint in `init`.
    """
    values = _values(flag)
    if _is_suite(values):
        raise UserError("--config: a recipe of an evaluation, for eval.py; give one of a run")
    if _leaves_open(values):
        from siglip.training import initial

        values = initial.inherit(values, workdir)
    return validate(from_dict(values))


def read_suite(flag) -> cfg.Suite:
    """The value of a `--config` flag that says what to evaluate."""
    values = _values(flag)
    if not _is_suite(values):
        raise UserError("--config: a recipe of a run, for train.py; give configs/eval.py")
    return from_dict(values, cfg.Suite)


def _is_suite(values: dict[str, Any]) -> bool:
    return "tasks" in values


def _values(flag) -> dict[str, Any]:
    try:
        return flag.value.to_dict()
    except OSError as error:
        reason = _one_line(error).rpartition("] ")[2]  # what follows the list of places searched
        raise UserError(f"--config: {reason}; give the path of a recipe") from None
    except AttributeError:
        raise UserError("--config: get_config() gives no ConfigDict; repair the recipe") from None


def _leaves_open(values: dict[str, Any]) -> bool:
    return any(_leaves_open(v) if isinstance(v, dict) else v is None for v in values.values())


def _help(argv: Sequence[str]) -> str:
    """What a script does, its flags, and the fields of the recipe it was given."""
    lines = [sys.modules["__main__"].__doc__.strip(), ""]
    if (recipe := _recipe(argv)) is None:
        return "\n".join([*lines, "--config RECIPE --help lists the fields of a recipe."])
    lines += [f"Fields of {recipe}, to be overridden with --config.FIELD=VALUE:", ""]
    overrides = [arg for arg in argv if arg.startswith("--config.")]
    values = _values(_flag(recipe, overrides))
    kind = cfg.Suite if _is_suite(values) else Config
    rows = list(fields(from_dict(values, kind, partial=True)))
    width = max(len(name) for name, _, _ in rows)
    for name, value, comment in rows:
        shown = "(the checkpoint's)" if value is None else repr(value)
        lines.append(f"  {name:<{width}}  {shown}{f'  # {comment}' if comment else ''}")
    return "\n".join(lines)


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """`(name, value, comment in the schema)` of every field of a configuration."""
    source = inspect.getsource(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{name}.")
        else:
            comment = re.search(rf"^    {field.name}: .*?  # (.*)$", source, re.MULTILINE)
            words = lambda m: f"one of {', '.join(getattr(cfg, m[1]))}"  # noqa: E731
            yield name, value, re.sub("one of ([A-Z_]+)", words, comment[1] if comment else "")


def _one_line(error: Exception) -> str:
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]  # ml_collections wraps its errors in each other
    return " ".join(str(error.args[0] if error.args else error).replace('"', "").split())
