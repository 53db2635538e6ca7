"""Settings of earlier versions and where they are now: an old key is an error that names the new one.

Nothing is translated silently: a preset or a stored run that still speaks the old names is to be edited once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kalm.errors import KalmError

# Old path: new path. A section's own entry stands for all that was in it and kept its name.
RENAMED = {
    "decision": "decision_transformer",
    "dynamics.look_every": "dynamics.evaluate_every",
    "ground.action_weight": "ground.loss.action",
    "ground.dynamics": "ground.tasks.dynamics",
    "ground.explanation": "ground.tasks.explanation",
    "ground.generation": "ground.tasks.generation",
    "ground.language_contrast_weight": "ground.language.contrast_weight",
    "ground.language_contrasts": "ground.language.contrasts",
    "ground.language_lr": "ground.language.lr",
    "ground.language_steps": "ground.language.steps",
    "ground.language_text_weight": "ground.language.text_weight",
    "ground.lora_alpha": "ground.lora.alpha",
    "ground.lora_dropout": "ground.lora.dropout",
    "ground.lora_rank": "ground.lora.rank",
    "ground.state_weight": "ground.loss.state",
    "ground.text_replay": "ground.tasks.text_replay",
    "ground.text_weight": "ground.loss.text",
    "imagine.heat": "imagine.temperature_growth",
    "imagine.least_weight": "imagine.refine.least_weight",
    "imagine.plausibility": "imagine.refine.plausibility",
    "imagine.plausible_share": "imagine.refine.plausible_share",
    "imagine.relabel": "imagine.refine.relabel",
    "imagine.tolerance": "imagine.refine.tolerance",
    "rounds": "online",
    "train.awac_lambda": "train.awac.lam",
    "train.combo_alpha": "train.combo.alpha",
    "train.combo_explore": "train.combo.explore",
    "train.combo_horizon": "train.combo.horizon",
    "train.combo_real_share": "train.combo.real_share",
    "train.combo_refresh": "train.combo.refresh",
    "train.combo_rollouts": "train.combo.rollouts",
    "train.combo_target": "train.combo.target",
    "train.cql_alpha": "train.cql.alpha",
    "train.cql_samples": "train.cql.samples",
    "train.iql_expectile": "train.iql.expectile",
    "train.iql_temperature": "train.iql.temperature",
    "train.td3bc_alpha": "train.td3bc.alpha",
    "rounds.count": "online.rounds",
}


def new_path(old: str) -> str | None:
    """Return the present path of a setting of an earlier version, None if the name is none of those."""
    if old in RENAMED:
        return RENAMED[old]
    section, _, rest = old.partition(".")
    return f"{RENAMED[section]}.{rest}" if rest and section in RENAMED else None


def require_present_names(data: Mapping[str, object]) -> None:
    """Check plain settings for names of earlier versions.

    Raises:
        KalmError: there are some; says for each what it is called now.
    """
    found = [f"{path!r} is now {new!r}" for path in _paths(data) if (new := new_path(path))]
    if found:
        raise KalmError(f"settings: {'; '.join(found)}. Write the new names.")


def _paths(data: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every value, and of every section without one."""
    for name, value in data.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{path}.")
        else:
            yield path
