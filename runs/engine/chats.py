"""Completions of several turns: the model speaks, tools answer, the model goes on.

TRL's loop belongs to its trainers. This one serves evaluation, and shows the model the same tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from scramble.errors import RunError
from scramble.runs.internals import trl as templates
from scramble.runs.tasks import Message

Ids = list[int]


class Chats:
    """Answers to prompts, with tools.

    Args:
        tools: functions with type hints and Google-style docstrings, by which the model knows them.
        turns: answers of tools in a row, at most.
        length: tokens of a completion, at most: of all its turns, and of what tools answered.
        context: tokens of prompt and completion that the model can read; None for no limit.

    Raises:
        RunError: the chat template cannot show calls of tools, or TRL cannot read them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: list[Callable[..., Any]],
        turns: int,
        length: int,
        context: int | None,
    ) -> None:
        self.tools = {tool.__name__: tool for tool in tools}
        self.turns, self.length, self.context = turns, length, context
        self.tokenizer = copy.deepcopy(tokenizer)  # TRL writes into it
        try:
            if not templates.supports_tool_calling(self.tokenizer):
                raise ValueError("it does not show calls of tools and their answers")
            if not any(getattr(self.tokenizer, f"response_{kind}", None) for kind in ("template", "schema")):
                self.tokenizer = templates.add_response_schema(self.tokenizer)
            if not templates.is_chat_template_prefix_preserving(self.tokenizer):
                self.tokenizer.chat_template = templates.get_training_chat_template(self.tokenizer)
        except ValueError as error:
            raise RunError(f"evaluation with tools: the chat template: {error}") from None

    def complete(
        self, prompts: Sequence[str | list[Message]], speak: Callable[[list[Ids]], list[Ids]]
    ) -> list[list[Message]]:
        """Messages after each prompt: the model's, and those of tools between them.

        Args:
            speak: continues each of the sequences by what the model says next, its last token included.
        """
        chats: list[list[Message]] = [[] for _ in prompts]
        starts = [[_user(prompt)] if isinstance(prompt, str) else prompt for prompt in prompts]
        first = [self._ids(prompt, tools=list(self.tools.values())) for prompt in starts]
        seen = [list(ids) for ids in first]
        room = [len(ids) + self.length for ids in first]
        going = list(range(len(prompts)))
        for turn in range(self.turns + 1):
            if not going:
                break
            said = speak([seen[at] for at in going])
            asked = {}
            for at, ids in zip(going, said, strict=True):
                ids = ids[: room[at] - len(seen[at])]
                message = self._read(ids, seen[at])
                seen[at] += ids
                chats[at] += message
                if turn < self.turns and message and message[0].get("tool_calls"):
                    asked[at] = [self._call(call) for call in message[0]["tool_calls"]]
            going = []
            for at, answers in asked.items():
                shown = self._shown(answers)
                limit = room[at] if self.context is None else min(room[at], self.context - 1)
                if len(seen[at]) + len(shown) <= limit:
                    seen[at] += shown
                    chats[at] += answers
                    going.append(at)
        return chats

    def _ids(self, messages: list[Message], **settings: Any) -> Ids:
        settings = {"add_generation_prompt": True} | settings
        return list(
            self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **settings)
        )

    def _read(self, ids: Ids, before: Ids) -> list[Message]:
        """The message that the tokens are; none if there was no room for any."""
        tools = list(self.tools.values())
        return [templates.parse_response(self.tokenizer, ids, prefix=before, tools=tools)] if ids else []

    def _call(self, call: dict[str, Any]) -> Message:
        """What the tool answers; a call that fails is answered by why."""
        function = call["function"]
        try:
            if function["name"] not in self.tools:
                raise ValueError(f"Tool {function['name']} not found.")
            content: Any = self.tools[function["name"]](**function["arguments"])
        except Exception as error:  # the model's fault, which it is told
            content = {"error": str(error)}
        return {"role": "tool", "name": function["name"], "content": str(content)}

    def _shown(self, answers: list[Message]) -> Ids:
        """Tokens from the end of the model's turn to where it may speak again."""
        call = {"type": "function", "function": {"name": answers[0]["name"], "arguments": {}}}
        chat = [_user("-"), {"role": "assistant", "content": "", "tool_calls": [call]}]
        before, after = self._ids(chat, add_generation_prompt=False), self._ids(chat + answers)
        end = self.tokenizer.eos_token_id
        if end in before:  # templates put a newline after a turn, which the model does not say
            before = before[: len(before) - before[::-1].index(end)]
        if after[: len(before)] != before:
            raise RunError("evaluation with tools: the chat template changes what was said before")
        return after[len(before) :]


def _user(prompt: str) -> Message:
    return {"role": "user", "content": prompt}
