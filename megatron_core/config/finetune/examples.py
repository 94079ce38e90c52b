"""Where the examples of a task come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_core.config.section import Section

_FIELD = "a.b is b in the object a, and {a} … {b} a form to fill in"


class ExampleFiles(Section):
    """Files of examples, and which of them are scored."""

    train: str = Field(description="File, or folder of BRAT's files, that is trained on")
    test: str | None = Field(
        None, description="What is scored, in the same form; null holds out a share of train"
    )
    heldout: float = Field(
        0.1, gt=0, lt=1, description="Share of the groups of train that is scored where test is "
        "null",
    )  # fmt: skip
    group: str | None = Field(
        None,
        description="Field of what is whole on one side of the split, such as a patient; null "
        "takes the document, or the example",
    )


class TextExamples(ExampleFiles):
    """Texts or pairs of texts with a class: JSON lines, JSON, CSV or TSV."""

    kind: Literal["texts"] = "texts"
    text: str = Field("text", description=f"Field of the text; {_FIELD}")
    second: str | None = Field(None, description="Field of the second text of a pair")
    label: str = Field("label", description="Field of the class")
    skip: list[str] = Field(default_factory=list, description="Classes that are left out")


class ScoredExamples(ExampleFiles):
    """Texts or pairs of texts with a number: JSON lines, JSON, CSV or TSV."""

    text: str = Field("text", description=f"Field of the text; {_FIELD}")
    second: str | None = Field(None, description="Field of the second text of a pair")
    score: str = Field("score", description="Field of the number")


class ChapterExamples(Section):
    """Descriptions of ICD-10-CM codes and their chapters; categories are whole in the split."""

    kind: Literal["chapters"] = "chapters"
    source: str = Field(description="Ingested source of kind icd10cm")
    codes_per_category: int = Field(
        8, ge=1, description="Most examples taken from one three-character category"
    )


LabelledExamples = Annotated[TextExamples | ChapterExamples, Field(discriminator="kind")]


class EntityExamples(ExampleFiles):
    """Entities: columns of words and tags, BRAT's folders, or JSON lines with spans."""

    word: int = Field(0, description="Column of the word, from 0; negative from the last")
    tag: int = Field(-1, description="Column of the tag")


class RelationExamples(ExampleFiles):
    """Entities and relations between two of them: BRAT's folders, or JSON lines."""

    sentences: int = Field(2, ge=1, description="Most sentences that a pair of entities spans")
    characters: int = Field(600, ge=1, description="Most characters that it spans")


class QuestionExamples(ExampleFiles):
    """Questions whose answers stand in a text: SQuAD's layout, or JSON lines."""

    strict: bool = Field(
        True, description="Refuse answers that are not where they should be; else leave them out"
    )


class DialogueExamples(ExampleFiles):
    """Prompts with responses, or messages in turns: JSON lines, JSON or CSV."""

    messages: str | None = Field(
        None, description="Field of the messages; null where there are prompt and response"
    )
    prompt: str = Field("prompt", description=f"Field of what is asked; {_FIELD}")
    response: str = Field("response", description="Field of the answer")
    system: str | None = Field(None, description="Field of what is said before")


class PreferenceExamples(ExampleFiles):
    """Prompts, each with a response that is preferred to another: JSON lines."""

    prompt: str | None = Field(
        "prompt", description="Field of the prompt; null where the others hold all messages"
    )
    chosen: str = Field("chosen", description="Field of the preferred response")
    rejected: str = Field("rejected", description="Field of the other")
