"""`dspy-toolkit run`: run a task's stored program, or its unoptimized one, on one set of inputs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.files import allow_own_code, read_inputs
from dspy_toolkit.cli.options import Model, Plain, pairs
from dspy_toolkit.cli.output import styled

if TYPE_CHECKING:
    from dspy_toolkit.programs.target import Target

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def run(
        name: Annotated[
            str,
            typer.Argument(
                help="Task, task@version (v2, production, latest), a bundle's ./folder, or whatever else was optimized."
            ),
        ],
        inputs: Annotated[
            list[str] | None, typer.Option("--input", "-i", metavar="FIELD=VALUE", help="An input; repeatable.")
        ] = None,
        file: Annotated[Path | None, typer.Option("--inputs", help="JSON file with the inputs; - reads stdin.")] = None,
        model: Model = None,
        plain: Plain = False,
        write: Annotated[
            Path | None, typer.Option(metavar="FOLDER", help="Write the files the prediction makes into this folder.")
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Run a program on one set of inputs.

        Without inputs it runs on the task's example.
        The optimized program is used if there is one, else the plain one, and which it was is said.
        """
        with edge(as_json) as output:
            allow_own_code(name)
            values = {**read_inputs(file), **pairs("--input", inputs)}
            from dspy_toolkit.framework.framework import DSPyFramework

            framework = DSPyFramework()
            target = framework.target(name, plain=plain)
            values = _typed(values, target)
            program = framework.bind(target.module, model=model, project=target.project)
            prediction = program(**values)
            files = dict(target.task.files(values, prediction)) if target.task else {}
            written = _write(files, write) if write is not None else []
            fields = _plain(prediction)
            output.document(
                {
                    "task": target.name,
                    "version": target.version,
                    "model": program.lm.model,
                    "inputs": values,
                    "prediction": fields,
                    "files": files,
                    "written": written,
                }
            )
            output.note(f"{target.name} {target.version or '(not optimized)'} with {program.lm.model}")
            if (
                target.name in framework.store
                and framework.store.default(target.name) is None
                and target.version is None
            ):
                newest = framework.store.get(target.name, "latest").name
                output.note(
                    f"{target.name}@{newest} is stored, but not shown to be better on held-out rows; name it to use it."
                )
            for field, value in fields.items():
                output.print(styled("[bold]{}[/]", field))
                output.print(value)
            if write is None:
                for filename, text in files.items():
                    output.print(styled("\n[bold]{}[/]  (--write FOLDER writes it)", filename))
                    output.print(text)
            for path in written:
                output.print(f"wrote {path}")


def _typed(texts: dict[str, Any], target: "Target") -> dict[str, Any]:
    """Inputs as the program's fields have them; words from the command line become numbers where the field says so."""
    from pydantic import TypeAdapter, ValidationError

    from dspy_toolkit.errors import DataError, UnknownNameError
    from dspy_toolkit.programs.inspect import input_fields, signatures_of

    if not texts and target.task is not None:
        return dict(target.task.example_inputs())
    program = target.plain()
    names = input_fields(program)
    for name in texts:
        if name not in names:
            raise UnknownNameError(f"input field of {target.name}", name, names)
    annotations: dict[str, Any] = {}
    for signature in signatures_of(program).values():
        annotations |= {name: field.annotation for name, field in signature.input_fields.items()}
    typed = {}
    for name in names:
        if name not in texts:
            raise DataError(f"{target.name} needs the input {name!r}. Give it with --input {name}=...")
        try:
            typed[name] = TypeAdapter(annotations.get(name, Any)).validate_python(texts[name])
        except ValidationError as error:
            raise DataError(f"The input {name}={texts[name]!r} is not valid: {error.errors()[0]['msg']}.") from error
    return typed


def _plain(prediction: Any) -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    return {key: to_jsonable_python(value, fallback=str) for key, value in prediction.items()}


def _write(files: dict[str, str], folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [str(folder / name) for name in files]
