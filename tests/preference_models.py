"""Preference models small enough to be made in a test: a tiny body with a random head."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from actors.reward_models import PreferenceMark


def make_classifier(
    body: Path, folder: Path, *, outputs: int = 1, mark: PreferenceMark | None = None, **config: Any
) -> Path:
    """Save `body` as a sequence classifier with a random head, and with these entries in its configuration."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(body, num_labels=outputs, dtype=torch.float32)
    for name, value in config.items():
        setattr(model.config, name, value)
    if mark:
        mark.write(model.config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(body).save_pretrained(folder)
    return folder
