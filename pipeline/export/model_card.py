"""The model card of an export: what it was trained for, how it loads, what it does to text."""

from typing import Any

import transformers

from pipeline.export.lineage import LINEAGE, NOT_FOLDED
from pipeline.settings.corpus import CleaningSettings, CorpusSettings


def model_card(lineage: dict[str, Any], parameters: int) -> str:
    """The card of a network with so many parameters, from what `training.json` holds."""
    settings, scores = lineage["settings"], lineage["heldout"] or {}
    version = transformers.__version__
    steps = f"{lineage['step']} steps of {settings['train']['global_batch']} samples of "
    steps += f"{settings['corpus']['sequence_length']} tokens"
    for phase in settings["train"]["phases"]:
        if phase["after"] < lineage["step"]:
            steps += f"; after step {phase['after']}, {phase['global_batch']} samples of "
            steps += f"{phase['sequence_length']} tokens"
    masks = "whole-word masks" if lineage["whole_words"] else "masks of single tokens"
    objective = " and ".join([masks, *map(str.upper, lineage["pairs"])])
    tags = ["nezha", *(["whole-word-masking"] if lineage["whole_words"] else [])]
    rows = [f"| held-out {name} | {value:.4g} |" for name, value in scores.items()]
    table = "\n".join(["| measured | value |", "|---|---|", *rows])
    measured = table if rows else "No text was held out, so nothing was measured."
    return f"""---
language: zh
library_name: transformers
pipeline_tag: fill-mask
tags: [{", ".join(tags)}]
---
# {lineage["run"]}: a NEZHA of {parameters / 1e6:.1f} M parameters

Chinese BERT with functional relative positions (arXiv 1909.00204), pretrained with {objective}
for {steps}.

```python
from transformers import pipeline
fill = pipeline("fill-mask", model="PATH_OF_THIS_FOLDER", trust_remote_code=True)
print(fill("北京是中国的首[MASK]。")[0]["sequence"])
```

Heads load in the same way: `AutoModelForTokenClassification.from_pretrained(…,
trust_remote_code=True)`, and so on. The code needs transformers 5 (written by {version}).

{_text_section(lineage)}

{measured}

Corpus fingerprint `{lineage["fingerprint"]}`, MLflow run `{lineage["mlflow_run"]}`. `{LINEAGE}`
holds all settings. The model has seen only its corpus: test it for your use before you rely on it.
"""


def _text_section(lineage: dict[str, Any]) -> str:
    """What the tokenizer does to text, and which steps of the cleaning it leaves to the user."""
    described = {
        name: f"- `{name}`: {CleaningSettings.model_fields[name].description}"
        for name in lineage["cleaning"]
    }
    folded = [line for name, line in described.items() if name not in NOT_FOLDED]
    if lineage["lowercase"]:
        folded.append(f"- `lowercase`: {CorpusSettings.model_fields['lowercase'].description}")
    left = [line for name, line in described.items() if name in NOT_FOLDED]
    lines = ["The corpus was cleaned in these steps, and the tokenizer does the same:", *folded]
    if "simplify" in described:
        lines.append("  (OpenCC's phrases too; where two of them overlap, it may choose the other)")
    if left:
        lines += ["", "A tokenizer cannot do these steps, so your text may need them:", *left]
        lines.append(
            "  (jobs.finetune and jobs.predict do them for tasks without character places)"
        )
    lines += [
        "",
        "Load it with `AutoTokenizer.from_pretrained(…, trust_remote_code=True)`: without the last",
        "argument transformers asks on the terminal, and waits 15 seconds. `BertTokenizer` folds",
        "case but no other characters, and gives other ids where a text has them.",
    ]
    return "\n".join(lines) if described else "The corpus was not cleaned."
