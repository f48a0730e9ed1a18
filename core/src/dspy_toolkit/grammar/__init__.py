"""From a signature to the grammar of its answers. `compiler.py` says which texts such a grammar accepts."""

from dspy_toolkit.grammar.answer import AnswerField, AnswerGrammar
from dspy_toolkit.grammar.budgets import MaxTokens
from dspy_toolkit.grammar.compiler import compile_arguments, compile_chat, compile_json, problems

__all__ = [
    "AnswerField",
    "AnswerGrammar",
    "MaxTokens",
    "compile_arguments",
    "compile_chat",
    "compile_json",
    "problems",
]
