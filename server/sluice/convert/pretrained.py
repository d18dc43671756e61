"""A Hugging Face style directory as a thing to be imported: its weights become a graph, its texts are kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sluice.convert import making
from sluice.convert.making import Made, Progress
from sluice.convert.source import Source


@dataclass(frozen=True)
class Pretrained:
    source: Source
    said: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        return self.source.directory

    @property
    def files(self) -> tuple[Path, ...]:
        return self.source.files

    def make(self, staging: Path, progress: Progress) -> Made:
        from sluice.convert.check import check_model
        from sluice.convert.conversion import convert
        from sluice.convert.settings_file import settings_text

        conversion = convert(self.source, progress)
        progress("write", 0, 1)
        making.save(conversion.model, staging)
        for path in self.source.text_files:
            shutil.copyfile(path, staging / path.name)
        progress("write", 1, 1)
        progress("check", 0, 1)
        check_model(staging / making.MODEL, conversion.architecture)
        progress("check", 1, 1)
        return Made(conversion.outputs.task, settings_text(conversion.architecture, conversion.outputs))
