"""`law.json`: fitted laws as numbers, from which they can be asked again without the table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.scaling import LAWS
from algorithms.scaling.fit import Fit
from algorithms.scaling.power_law import power_law
from workflows.run_directory import environment
from workflows.scaling_law.study import Study
from workflows.scaling_law.table import TableError

RECORD = "law.json"


def write_record(directory: Path, studies: Sequence[Study], tables: Sequence[Path]) -> Path:
    """Write the studies into `directory` and return the file's path."""
    path = directory / RECORD
    content = {"tables": [str(table) for table in tables], "laws": [_of(study) for study in studies], **environment()}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def read_record(path: Path) -> list[Fit]:
    """The fitted laws of a `law.json`.

    Raises: `TableError` for a file that is none.
    """
    try:
        laws = json.loads(path.read_text(encoding="utf-8"))["laws"]
        return [_fit(law) for law in laws]
    except FileNotFoundError:
        raise TableError(f"there is no fitted law {path}; `fit` writes one, --fit names another") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path} holds no fitted law: {type(error).__name__}: {error}") from None


def _of(study: Study) -> dict[str, Any]:
    fit, check = study.fit, study.check
    names, intervals = fit.law.names, fit.intervals().tolist()
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "factors": list(fit.law.factors),
        "outcome": fit.law.outcome,
        "metric": study.metric,
        "mode": study.mode,
        "parameters": dict(zip(names, fit.parameters.tolist(), strict=True)),
        "intervals": dict(zip(names, intervals, strict=True)),
        "free": list(fit.free),
        "covariance": fit.covariance.tolist(),
        "residuals": fit.residuals.tolist(),
        "deviation": fit.deviation,
        "delta": fit.delta,
        "box": {name: list(ends) for name, ends in fit.box.items()},
        "resampled": fit.resampled.tolist(),
        "measured": [
            {"group": label, "outcome": value}
            for label, value in zip(study.measurements.labels, study.measurements.outcome.tolist(), strict=True)
        ],
        "check": check
        and {
            "parameters": dict(zip(names, check.fit.parameters.tolist(), strict=True)),
            "rows": int(check.held_out.sum()),
            "mean_error": check.mean_error,
            "largest_error": float(np.abs(check.errors).max()),
            "covered": check.covered,
            "excess": check.excess,
        },
        "notes": list(study.notes),
    }


def _fit(law: dict[str, Any]) -> Fit:
    known = power_law(law["factors"], law["outcome"]) if law["law"] == "step" else LAWS[law["law"]]
    return Fit(
        law=known,
        parameters=np.array([law["parameters"][name] for name in known.names]),
        free=tuple(law["free"]),
        covariance=np.array(law["covariance"]),
        residuals=np.array(law["residuals"]),
        deviation=law["deviation"],
        delta=law["delta"],
        box={name: (low, high) for name, (low, high) in law["box"].items()},
        resampled=np.array(law["resampled"]).reshape(-1, len(known.names)),
    )
