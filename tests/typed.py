"""Shapes and dtypes in signatures are enforced: jaxtyping's annotations, checked by beartype on every call.

jaxtyping's own import hook evaluates annotations where a function is defined, and takes for `Any` what it
cannot evaluate there: names imported for types only, classes that follow. Here they are evaluated on the
first call, with what a type checker knows; one that cannot be evaluated is an error. Compiled functions
are checked where Python calls them; numba takes the wrapper for the function that it wraps. Annotations
without arrays are left to mypy.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from threading import RLock
from types import CodeType, ModuleType
from typing import Any

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

PACKAGE = "scramble"
_typing_names: dict[str, dict[str, Any]] = {}

# CPython 3.11 counts the depth of all syntax trees in one place, so that only one thread may make some.
_LOCK = RLock()


def install() -> None:
    """Check what is imported of the project from here on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def checked(function: Callable[..., Any], fields_of: type | None = None) -> Callable[..., Any]:
    """A function whose annotations are enforced from its first call on, if any is jaxtyping's."""
    enforced: Callable[..., Any] | None = None

    @functools.wraps(getattr(function, "py_func", function))
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal enforced
        if enforced is None:
            found = {name: hint for name, hint in hints(function, fields_of).items() if arrays(hint)}
            enforced = _enforce(function, found) if found else function
        return enforced(*args, **kwargs)

    call.checks = function
    call.checks_fields_of = fields_of
    if hasattr(function, "_numba_type_"):
        call._numba_type_ = function._numba_type_
    return call


def checked_class(cls: type) -> type:
    """A class; if it is a dataclass, its fields are checked when an instance is made."""
    if (
        "__dataclass_params__" in vars(cls)
        and "__init__" in vars(cls)
        and not hasattr(cls.__init__, "checks")
    ):
        cls.__init__ = checked(cls.__init__, cls)
    return cls


def hints(function: Callable[..., Any], fields_of: type | None = None) -> dict[str, Any]:
    """The annotations of a function, or of a dataclass's fields, with all that its module imports."""
    if fields_of is not None:
        own = [base for base in reversed(fields_of.__mro__) if base.__module__.partition(".")[0] == PACKAGE]
        bare = [
            type("Fields", (), {"__annotations__": vars(base).get("__annotations__", {})}) for base in own
        ]
        every = [
            typing.get_type_hints(one, _names(base.__module__), None, True)
            for one, base in zip(bare, own, strict=True)
        ]
        return {name: hint for found in every for name, hint in found.items()}
    plain = getattr(function, "py_func", function)
    around = inspect.getclosurevars(plain).nonlocals if plain.__closure__ else {}
    return typing.get_type_hints(plain, {**_names(plain.__module__), **around}, None, True)


def arrays(hint: Any) -> bool:
    """Whether an annotation holds one of jaxtyping's."""
    if isinstance(hint, list | tuple):
        return any(map(arrays, hint))
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or arrays(typing.get_args(hint))


def members(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions that a module defines, of its classes too, by name; of properties what computes them."""
    for name, value in vars(module).items():
        if inspect.isclass(value) and value.__module__ == module.__name__:
            for inner, member in vars(value).items():
                plain = [getattr(member, key, None) for key in ("fget", "func", "__func__")]
                plain = next((one for one in plain if one is not None), member)
                if inspect.isfunction(plain) and plain.__module__ == module.__name__:
                    yield f"{name}.{inner}", plain
        elif inspect.isfunction(value) and value.__module__ == module.__name__:
            yield name, value


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The evaluated annotations of a function, checked or not."""
    return hints(getattr(function, "checks", function), getattr(function, "checks_fields_of", None))


def _enforce(function: Callable[..., Any], found: dict[str, Any]) -> Callable[..., Any]:
    signature = inspect.signature(getattr(function, "py_func", function))
    parameters = [one.replace(annotation=found.get(name, Any)) for name, one in signature.parameters.items()]

    def thin(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    thin.__name__, thin.__qualname__, thin.__module__ = (
        *(function.__name__, function.__qualname__, function.__module__),
    )
    thin.__signature__ = signature.replace(parameters=parameters, return_annotation=found.get("return", Any))
    return jaxtyped(thin, typechecker=beartype)


def _names(module: str) -> dict[str, Any]:
    """What a type checker knows in a module: its globals, and what it imports and defines for types only."""
    found = dict(vars(sys.modules[module]))
    with _LOCK:
        if module not in _typing_names:
            file = sys.modules[module].__file__
            for node in ast.parse(Path(file).read_text()).body:
                if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                    exec(compile(ast.Module(node.body, []), file, "exec"), found)
            _typing_names[module] = {
                name: value for name, value in found.items() if name not in vars(sys.modules[module])
            }
    return {**found, **_typing_names[module]}


class _Decorate(ast.NodeTransformer):
    """Puts `checked` below a function's decorators (above numba's) and `checked_class` above a class's."""

    def __init__(self, compiled: bool) -> None:
        self.compiled = compiled

    def visit_Module(self, node: ast.Module) -> ast.Module:
        for one in node.body:
            if self.compiled and isinstance(one, ast.FunctionDef):
                one.decorator_list.insert(0, _name("checked", one))
            else:
                self.visit(one)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list.append(_name("checked", node))
        self.generic_visit(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.decorator_list.insert(0, _name("checked_class", node))
        self.generic_visit(node)
        return node


def _name(function: str, where: ast.AST) -> ast.expr:
    expression = ast.parse(f"__import__('sys').modules['{__name__}'].{function}", mode="eval").body
    for node in ast.walk(expression):
        ast.copy_location(node, where)
    return expression


class _Loader(SourceFileLoader):
    """Compiles a module with its functions checked."""

    def get_code(self, fullname: str) -> CodeType:
        with _LOCK:
            tree = ast.parse(self.get_data(self.path), self.path)
            tree = _Decorate(_imports(tree, "numba")).visit(tree)
            return compile(tree, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            # pytest stands before the others and rewrites packages with plugins: its loader is passed over.
            if spec is not None and type(spec.loader) is SourceFileLoader:
                spec.loader = _Loader(spec.loader.name, spec.loader.path)
                return spec
        return None


def _imports(tree: ast.Module, library: str) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.module == library for node in ast.walk(tree))
