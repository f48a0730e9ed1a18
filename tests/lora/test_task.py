import json

import dspy
import yaml

from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit_lora.config import LoRAConfig
from dspy_toolkit_lora.task import data, files, program


def test_the_program_makes_a_config_and_the_files_follow(config):
    row = data().test[0]
    lm = ScriptedLM([{"config": config.model_dump()}])
    with dspy.context(lm=lm):
        prediction = program()(**row)
    assert prediction.config == config
    written = files(row, prediction)
    assert yaml.safe_load(written["lora.yaml"])["max_seq_length"] == row["row_tokens"]
    assert yaml.safe_load(written["lora.yaml"])["batch_size"] == config.batch_size
    assert json.loads(written["adapter_config.json"])["lora_alpha"] == config.alpha


def test_rows_hold_the_programs_inputs_only():
    inputs = set(program().signature.input_fields)
    assert all(set(row) == inputs for split in (data().train, data().validation, data().test) for row in split)


def test_the_schema_in_the_prompt_is_terse():
    schema = LoRAConfig.model_json_schema()
    assert set(schema["required"]) == set(LoRAConfig.model_fields)
    assert "title" not in json.dumps(schema)
