"""The config: every knob, every rule, every error, there and back."""

import subprocess
import sys

import msgspec
import pytest

from darts_dist import config, schema
from darts_dist.data.sources import SOURCES
from darts_dist.errors import ConfigError, InputError
from darts_dist.nets.ops import OPS
from darts_dist.trainconfig import TrainConfig

TINY = "configs/tiny.toml"


def error_of(*overrides):
    with pytest.raises(ConfigError) as caught:
        config.load(None, overrides)
    return str(caught.value)


def test_defaults_are_those_of_the_paper():
    made = config.Config()
    assert (made.network.channels, made.network.layers, made.network.nodes) == (16, 8, 4)
    assert len(made.space.operations) == 8
    assert (made.weights.learning_rate, made.alphas.betas) == (0.025, (0.5, 0.999))


def test_dump_loads_back_to_an_equal_config():
    odd = config.load(
        None,
        [
            'data.path=a "quoted" \\ path, ümlaut\tand \x7f',
            "alphas.epsilon=1e-30",
            "weights.clip_norm=1e16",
            "data.mean=[0.1, 1, 3e-5]",
            "log.tensorboard=false",
        ],
    )
    assert config.parse(config.dump(odd), "dump") == odd
    assert config.dump(config.parse(config.dump(odd), "dump")) == config.dump(odd)


def test_overrides_are_toml_literals_and_a_bare_word_is_a_string():
    made = config.load(
        TINY,
        [
            "data.global_batch = 16",
            "data.path=/some/where",
            "data.kind=cifar10",
            'method.preset="darts_first"',
            "network.remat=true",
            'space.operations=["none", "skip_connect"]',
            "weights.clip_norm=3",
            "name=2026-11-24",
            "cluster.platform=",
        ],
    )
    assert made.data.global_batch == 16
    assert made.data.path == "/some/where"
    assert made.data.kind == "cifar10"
    assert made.method.preset == "darts_first"
    assert made.network.remat is True
    assert made.space.operations == ("none", "skip_connect")
    assert made.weights.clip_norm == 3.0
    assert made.name == "2026-11-24"
    assert made.cluster.platform == ""


def test_the_last_override_of_a_key_holds():
    assert config.load(None, ["seeds.count=3", "seeds.count=4"]).seeds.count == 4


def test_a_literal_cannot_set_a_second_key():
    assert config.load(None, ["data.path=1\nflip = false"]).data.flip is True


def test_a_run_is_named_after_its_file_unless_the_file_says_otherwise(tmp_path):
    assert config.load(TINY).name == "tiny"
    (tmp_path / "config.toml").write_text(config.dump(config.load(TINY)))
    assert config.load(str(tmp_path / "config.toml")) == config.load(TINY)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.gobal_batch=8", "data.gobal_batch is not a key; did you mean data.global_batch?"),
        ("gobal_batch=8", "gobal_batch is not a key; did you mean data.global_batch?"),
        ("dta.path=x", "dta.path is not a key; did you mean data.path?"),
        ("mesh.zzz=8", "mesh.zzz is not a key; there are mesh.seed, mesh.data"),
        ("name.first=x", "name.first is not a key"),
        ("data.momentum=0.5", "data.momentum is not a key; did you mean weights.momentum?"),
        ("data.global_batch=x", 'data.global_batch = "x"; wanted whole number >= 1'),
        ("data.global_batch=0", "data.global_batch = 0; wanted whole number >= 1"),
        ("data.global_batch=8.0", "data.global_batch = 8.0; wanted whole number >= 1"),
        ("seeds.count=true", "seeds.count = true; wanted whole number >= 1"),
        ("data.train_fraction=1.0", "data.train_fraction = 1.0; wanted number > 0 and < 1"),
        ("data.flip=1", "data.flip = 1; wanted true | false"),
        ("data=5", "data = 5; wanted a table"),
        ("alphas.betas=[0.5]", "alphas.betas = [0.5]; wanted list of 2: number"),
        ("alphas.betas=[0.5, 1]", "alphas.betas = [0.5, 1]; wanted list of 2: number >= 0 and < 1"),
        ("weights.momentum=nan", "weights.momentum = nan; wanted finite numbers"),
        ("data.mean=[inf, 0, 0]", "data.mean = [inf, 0, 0]; wanted finite numbers"),
        (
            "network.channels=99999999999",
            "network.channels = 99999999999; wanted a whole number up",
        ),
        ('data.path="a\\u0000b"', "wanted text without a NUL"),
        ('space={kind="rn"}', 'space.kind = "rn"; wanted cnn | rnn; did you mean rnn?'),
        ("space={kind=}", 'space = "{kind=}"; wanted a table'),
        ("method.preset=darts_secnd", "did you mean darts_second?"),
        ('space.operations=["sep_conv_3x4"]', "did you mean sep_conv_3x3?"),
        ('space.operations=["none"]', "wanted at least one operation besides none"),
        ("space.operations=[]", "wanted at least one operation besides none"),
        (
            'space.operations=["skip_connect", "skip_connect"]',
            "wanted skip_connect once",
        ),
        ("space.kind=rnm", 'space.kind = "rnm"; wanted cnn | rnn; did you mean rnn?'),
        ("data.kind=text", "texts go with space.kind=rnn; wanted"),
        ("network.image_px=33", "network.image_px = 33; wanted an even number"),
        ("network.classes=1", "network.classes = 1; wanted at least 2, or 0"),
        ("network.layers=0", "network.layers = 0; wanted whole number >= 1"),
        ("data.mean=[0.5]", "wanted one for each of network.in_channels = 3"),
        ("weights.learning_rate_min=1", "wanted at most weights.learning_rate = 0.025"),
        ("batch_norm.sync=groups", "wanted batch | state | group:N"),
        ("batch_norm.sync=group:7", "wanted groups that divide data.global_batch = 32"),
        ("batch_norm.sync=group:0", "wanted batch | state | group:N"),
        ("mesh.data=5", "data.global_batch = 32; wanted a multiple of mesh.data = 5"),
        ("mesh.seed=4", "seeds.count = 2; wanted a multiple of mesh.seed = 4"),
        ("name=a/b", 'name = "a/b"; wanted text without /'),
        ("name", "'name' is not an override; write it as key.path=VALUE"),
        ("=3", "'=3' is not an override; write it as key.path=VALUE"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_wanted(override, message):
    assert message in error_of(override)


def test_groups_have_to_divide_the_part_of_a_device():
    assert config.load(None, ["batch_norm.sync=group:8", "mesh.data=4"])
    assert "the 4 pictures of a device" in error_of("batch_norm.sync=group:8", "mesh.data=8")


def test_rules_hold_for_configs_made_in_python_too():
    with pytest.raises(ConfigError, match="image_px = 7"):
        config.Config(network=config.Network(image_px=7))


def test_an_unknown_key_in_a_file_is_named_in_full(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text("[data]\ngobal_batch = 8\n")
    with pytest.raises(ConfigError, match=r"^data\.gobal_batch is not a key; did you mean"):
        config.load(str(file))
    file.write_text("[data.kind]\nname = 'cifar10'\n")
    with pytest.raises(
        ConfigError, match=r'^data\.kind = \{name = "cifar10"\}; wanted array_record \|'
    ):
        config.load(str(file))
    file.write_text("[trainer.optimizer]\nlr = 1\n")
    with pytest.raises(ConfigError, match=r"^trainer\.optimizer is not a key; there are space"):
        config.load(str(file))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text("[data]\nglobal_batch : 8\n")
    with pytest.raises(ConfigError, match=r"x\.toml is not TOML: .*line 2"):
        config.load(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        config.load(str(file))
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="is a folder"):
        config.load(str(tmp_path))
    with pytest.raises(ConfigError, match=r"x\.toml/y cannot be read: Not a directory"):
        config.load(f"{file}/y")
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        config.load("x" * 300)


def test_a_mark_of_utf_8_in_front_is_no_part_of_the_text(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfseeds.count = 7\n")
    assert config.load(str(tmp_path / "x.toml")).seeds.count == 7


@pytest.mark.parametrize("value", ["[" * 9999, "1" * 9999])
def test_what_no_parser_takes_is_an_error_like_others(value, tmp_path):
    (tmp_path / "x.toml").write_text(f"data.mean = {value}\n")
    with pytest.raises(ConfigError, match=r"x\.toml is not"):
        config.load(str(tmp_path / "x.toml"))
    assert "wanted list of: number" in error_of(f"data.mean={value}")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "a path is empty"),
        ("ftp://site/x", "ftp:// is unknown; wanted a path, gs://... or s3://..."),
        ("az://box/x", "az://box/x cannot be reached: Install"),
    ],
)
def test_a_place_that_cannot_be_reached_is_named(path, said):
    with pytest.raises(InputError, match=said):
        config.load(path)


def test_the_hash_follows_what_a_search_finds_and_nothing_else():
    base = config.config_hash(config.load(None))
    same = ["name=x", "log.every_steps=7", "data.path=/x", "compile.cache=false", "data.threads=1"]
    assert config.config_hash(config.load(None, same)) == base
    for other in ("seeds.first=1", "schedule.epochs=9", "data.flip=false", "mesh.data=2"):
        assert config.config_hash(config.load(None, [other])) != base


def test_differences_name_each_key_with_both_values():
    a, b = config.load(None), config.load(None, ["seeds.first=5", "log.every_steps=7"])
    assert config.differences(a, a) == []
    assert config.differences(a, b) == [
        ("seeds.first", 0, 5),
        ("log.every_steps", a.log.every_steps, 7),
    ]


def test_the_keys_free_on_resume_are_keys():
    keys = [*schema.knobs(config.Config), *schema.knobs(TrainConfig)]
    assert all(any(key.startswith(one) for key in keys) for one in config.FREE_ON_RESUME)
    assert "schedule.epochs".startswith(config.FREE_ON_RESUME)
    assert "mesh.seed".startswith(config.FREE_ON_RESUME)
    assert "data.broken".startswith(config.FREE_ON_RESUME)
    assert not "schedule.steps_per_epoch".startswith(config.FREE_ON_RESUME)


def test_every_knob_has_a_meaning_and_stands_in_the_help():
    page = " ".join(config.describe().split())
    for key, knob in schema.knobs(config.Config).items():
        assert knob.meaning, key
        assert f"{key} = {schema.literal(knob.default)}" in page


def test_every_knob_can_be_set_to_its_default_from_the_command_line():
    for key, knob in schema.knobs(config.Config).items():
        config.load(None, [f"{key}={schema.literal(knob.default)}"])


def test_the_names_that_a_config_takes_are_those_of_the_registries():
    choices = {key: set(knob.choices) for key, knob in schema.knobs(config.Config).items()}
    assert choices["data.kind"] == set(SOURCES)
    assert choices["space.operations"] <= set(OPS)


def test_defaults_keep_their_own_ranges():
    tree = msgspec.to_builtins(config.Config())
    assert msgspec.convert(tree, config.Config) == config.Config()


def test_the_config_needs_neither_numpy_nor_jax():
    code = "import darts_dist.config, sys; print({'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
