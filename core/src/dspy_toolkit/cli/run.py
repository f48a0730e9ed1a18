"""`dspy-toolkit run`: run a task's stored program, or its unoptimized one, on one set of inputs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def run(
        name: Annotated[str, typer.Argument(help="Task, task@version (v2, production, latest), or a bundle's folder.")],
        inputs: Annotated[
            list[str] | None, typer.Option("--input", "-i", metavar="FIELD=VALUE", help="An input; repeatable.")
        ] = None,
        file: Annotated[Path | None, typer.Option("--inputs", help="JSON file with the inputs; - reads stdin.")] = None,
        model: Annotated[str | None, typer.Option(help="Model string or profile name.")] = None,
        plain: Annotated[bool, typer.Option("--plain", help="The program as it was before optimization.")] = False,
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
            from dspy_toolkit.cli.values import read_inputs

            given = read_inputs(inputs, file)
            from dspy_toolkit.framework import DSPyFramework

            framework = DSPyFramework()
            task, version = _found(framework, name, plain)
            values = _typed(given, task)
            program = _bound(framework, name, task, version, model)
            prediction = program(**values)
            files = dict(task.files(values, prediction))
            written = _write(files, write) if write is not None else []
            shown = _plain(prediction)
            output.document(
                {
                    "task": task.name,
                    "version": version,
                    "model": program.lm.model,
                    "inputs": values,
                    "prediction": shown,
                    "files": files,
                    "written": written,
                }
            )
            output.note(f"{task.name} {version or '(not optimized)'} with {program.lm.model}")
            for field, value in shown.items():
                output.print(f"[bold]{field}[/]")
                output.print(value)
            if write is None:
                for filename, text in files.items():
                    output.print(f"\n[bold]{filename}[/]  (--write FOLDER writes it)")
                    output.stdout.print(text, markup=False, highlight=False) if not as_json else None
            for path in written:
                output.print(f"wrote {path}")


def _found(framework: Any, name: str, plain: bool) -> tuple[Any, str | None]:
    """The task, and which version of it (or bundle folder) to run; None is the plain program."""
    if Path(name).is_dir():
        from dspy_toolkit.store import read_bundle

        return framework.task(read_bundle(Path(name)).manifest.task), name
    task_name, _, at = name.partition("@")
    task = framework.task(task_name)
    if plain or (not at and task.name not in framework.store.tasks()):
        return task, None
    return task, framework.store.get(task.name, at or None).name


def _bound(framework: Any, name: str, task: Any, version: str | None, model: str | None) -> Any:
    if version is None:
        return framework.bind(task.program(), model=model or framework.config.project(task.project).model)
    if version == name:
        return framework.load(name, model=model)
    return framework.load(task.name, version, model=model)


def _typed(given: dict[str, Any], task: Any) -> dict[str, Any]:
    """Inputs as the program's fields have them; words from the command line become numbers where the field says so."""
    from pydantic import TypeAdapter, ValidationError

    from dspy_toolkit.errors import DataError, UnknownNameError
    from dspy_toolkit.optimize import input_fields

    if not given:
        return dict(task.example_inputs())
    program = task.program()
    names = input_fields(program)
    for name in given:
        if name not in names:
            raise UnknownNameError(f"input field of {task.name}", name, names)
    annotations: dict[str, Any] = {}
    for predictor in program.predictors():
        annotations |= {name: field.annotation for name, field in predictor.signature.input_fields.items()}
    typed = {}
    for name in names:
        if name not in given:
            raise DataError(f"{task.name} needs the input {name!r}. Give it with --input {name}=...")
        try:
            typed[name] = TypeAdapter(annotations.get(name, Any)).validate_python(given[name])
        except ValidationError as error:
            raise DataError(f"The input {name}={given[name]!r} is not valid: {error.errors()[0]['msg']}.") from error
    return typed


def _plain(prediction: Any) -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    return {key: to_jsonable_python(value, fallback=str) for key, value in prediction.items()}


def _write(files: dict[str, str], folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [str(folder / name) for name in files]
