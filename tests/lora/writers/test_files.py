"""The written files, checked by the loaders they are for."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit_lora.config import LINEAR, LoRAConfig, TrainingPlan
from dspy_toolkit_lora.writers.files import mlx_lm_yaml, peft_adapter_config

plans = st.builds(
    TrainingPlan,
    rank=st.integers(4, 64),
    scale=st.floats(2, 20),
    learning_rate=st.floats(0.0001, 0.01),
    batch_size=st.integers(1, 16),
    iters=st.integers(10, 500),
    grad_checkpoint=st.booleans(),
    dropout=st.floats(0, 0.5),
    num_layers=st.integers(-1, 12),
    target_modules=st.lists(st.sampled_from(LINEAR), min_size=1, unique=True).map(tuple),
    fine_tune_type=st.sampled_from(["lora", "dora"]),
    max_seq_length=st.integers(8, 4096),
    warmup=st.integers(0, 50),
)


@given(plan=plans)
@settings(deadline=None)
def test_mlx_lm_reads_every_value_with_its_type(plan):
    from mlx_lm.lora import CONFIG_DEFAULTS, yaml_loader

    read = yaml.load(mlx_lm_yaml(plan, model="some/model"), yaml_loader)
    assert set(read) - {"lr_schedule"} <= set(CONFIG_DEFAULTS)
    for name in ("learning_rate", "batch_size", "iters", "grad_checkpoint", "num_layers", "max_seq_length", "seed"):
        assert read[name] == getattr(plan, name)
        assert type(read[name]) is type(getattr(plan, name))
    assert {name: read["lora_parameters"][name] for name in ("rank", "scale", "dropout")} == {
        "rank": plan.rank,
        "scale": plan.scale,
        "dropout": plan.dropout,
    }


@given(plan=plans)
@settings(deadline=None, max_examples=20)
def test_a_warm_up_rises_to_the_learning_rate_and_stays(plan):
    from mlx_lm.lora import yaml_loader
    from mlx_lm.tuner.utils import build_schedule

    read = yaml.load(mlx_lm_yaml(plan, model="some/model"), yaml_loader)
    if not plan.warmup:
        assert "lr_schedule" not in read
        return
    rate = build_schedule(read["lr_schedule"])
    # the schedule computes in float32
    assert float(rate(0)) == 0
    assert float(rate(plan.warmup + 1)) == pytest.approx(plan.learning_rate, rel=1e-5)
    assert float(rate(plan.warmup + 100)) == pytest.approx(plan.learning_rate, rel=1e-5)


def tiny_model(folder):
    """A llama and a tokenizer of whole words, as mlx-lm loads them from a folder."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "<eos>", *"abcdefgh"]
    shape = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(words),
        "eos_token_id": 1,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape))
    model = llama.Model(llama.ModelArgs.from_dict(shape))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    tokenizer = Tokenizer(models.WordLevel({word: token for token, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "unk_token": "<unk>"})
    )
    return folder


@pytest.mark.parametrize("rest", [{}, {"fine_tune_type": "dora", "num_layers": 1, "warmup": 2, "dropout": 0.1}])
def test_mlx_lm_trains_with_the_file(tmp_path, rest):
    model = tiny_model(tmp_path / "model")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "valid"):
        (data / f"{name}.jsonl").write_text('{"text": "a b c d e f g h"}\n' * 4)
    config = LoRAConfig(rank=5, scale=7.5, learning_rate=0.002, batch_size=2, iters=10, grad_checkpoint=True)
    plan = TrainingPlan.of(config, max_seq_length=16, **rest)
    (tmp_path / "lora.yaml").write_text(mlx_lm_yaml(plan, model=str(model), data=str(data)))
    process = subprocess.run(
        [sys.executable, "-m", "mlx_lm", "lora", "--config", "lora.yaml"],
        cwd=tmp_path,
        env={**os.environ, "MLX_DISABLE_COMPILE": "1", "HF_HUB_OFFLINE": "1"},  # compiling on a CPU needs a compiler
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    import mlx.core as mx

    weights = mx.load(str(tmp_path / "adapters" / "adapters.safetensors"))
    adapted = {int(name.split(".")[2]) for name in weights}
    assert adapted == ({1} if plan.num_layers == 1 else {0, 1})
    assert {array.shape[1] for name, array in weights.items() if name.endswith("lora_a")} == {plan.rank}
    assert any(mx.abs(array).max().item() > 0 for name, array in weights.items() if name.endswith("lora_b"))


def test_peft_loads_the_file(tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT brings torch; install both to run this")
    config = LoRAConfig(rank=16, scale=2.5, learning_rate=0.001, batch_size=4, iters=10, grad_checkpoint=False)
    plan = TrainingPlan.of(
        config, dropout=0.1, num_layers=2, fine_tune_type="dora", target_modules=("q_proj", "v_proj")
    )
    (tmp_path / "adapter_config.json").write_text(peft_adapter_config(plan, base_model="some/model", layers=6))
    loaded = peft.LoraConfig.from_pretrained(str(tmp_path))
    assert (loaded.r, loaded.lora_alpha, loaded.lora_dropout) == (16, 40.0, 0.1)
    assert loaded.target_modules == {"q_proj", "v_proj"}
    assert loaded.layers_to_transform == [4, 5]
    assert loaded.use_dora
    assert loaded.task_type == "CAUSAL_LM"
    assert peft.PeftConfig.from_pretrained(str(tmp_path)).base_model_name_or_path == "some/model"


def test_layers_are_needed_only_for_a_part_of_them(config):
    assert "layers_to_transform" not in json.loads(peft_adapter_config(config, base_model="some/model"))
    plan = TrainingPlan.of(config, num_layers=4)
    with pytest.raises(ValueError, match="not known"):
        peft_adapter_config(plan, base_model="some/model")
    with pytest.raises(ValueError, match="the model has 3"):
        peft_adapter_config(plan, base_model="some/model", layers=3)
