from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from trainer.config import ModelConfig
from trainer.errors import ConfigError
from trainer.registry import ModelInputs, ModelSection, build_model, model_section, models, register_model


def test_the_ctr_models_are_registered_with_their_papers() -> None:
    known = models()
    assert {"dcn_v2", "dhen", "dlrm"} <= set(known)
    assert list(known) == sorted(known)
    for name, entry in known.items():
        assert entry.name == name
        assert entry.summary.endswith(".")
        assert entry.source
        assert issubclass(entry.config, ModelSection)


def test_every_config_key_is_documented() -> None:
    for name, entry in models().items():
        for key, field in entry.config.model_fields.items():
            assert key == "name" or field.description, f"{name}.{key}"


@pytest.mark.parametrize(
    ("config", "where", "message"),
    [
        ({"name": "dlmr"}, "model.name", "did you mean `dlrm`?"),
        (
            {"name": "dlrm", "over_arch_layers": [1]},
            "over_arch_layers",
            "did you mean `over_arch_layer_sizes`?",
        ),
        ({"name": "dlrm", "over_arch_layer_sizes": [0]}, "over_arch_layer_sizes.0", "greater than 0"),
        ({"name": "dcn_v2", "structure": "paralel"}, "structure", "did you mean `parallel`?"),
        ({"name": "dlrm", "embedding_dim": 0}, "embedding_dim", "greater than or equal to 1"),
        ({"name": "dlrm", "embedding_dim": "auto"}, "embedding_dim", "is of feature groups"),
    ],
)
def test_wrong_model_section_names_the_key(config: dict[str, Any], where: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        model_section(ModelConfig(**config))
    assert where in error.value.where
    assert message in str(error.value)


def test_a_model_may_lie_in_a_module_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(
        "from torch import nn\nfrom trainer.registry import ModelSection, register_model\n"
        "class Keys(ModelSection):\n    width: int = 4\n"
        "@register_model('of_own_module', config=Keys, task='ctr', source='none')\n"
        "class Own(nn.Module):\n    pass\n"
    )
    (tmp_path / "broken_models.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("trainer.registry._MODELS", dict(models()))  # It is forgotten after this test.
    section = model_section(ModelConfig(name="of_own_module", module="own_models", width=8))
    assert (section.embedding_dim, section.model_dump()["width"]) == (16, 8)
    with pytest.raises(ConfigError, match="no such Python module") as error:
        model_section(ModelConfig(name="of_own_module", module="own_modles.tower"))
    assert error.value.where == "model.module"
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        model_section(ModelConfig(name="of_own_module", module="broken_models"))


def test_a_name_is_registered_once() -> None:
    models()
    with pytest.raises(ValueError, match="dlrm"):
        register_model("dlrm", config=ModelSection, task="ctr", source="none")(nn.Module)


def test_build_model_refuses_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="no such model"):
        build_model(ModelInputs(0, (), ()), ModelSection(name="nothing"))
