"""Rankers of other libraries, built over made-up features: what `foreign_models.py` shares."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from foreign_ctr import CTR
from foreign_tabular import TABULAR

NUM_ROWS, NUM_IDS, LENGTH, WIDTH = 12, 20, 10, 8
Built = tuple[str, Callable[[], tuple[nn.Module, Any, Any]]]


def ids(*sizes: int) -> Tensor:
    return torch.randint(1, NUM_IDS, (NUM_ROWS, *sizes))


def padded_history() -> tuple[Tensor, Tensor]:
    """Ids [B, L] padded with 0 behind, and lengths [B]."""
    lengths = torch.randint(1, LENGTH + 1, (NUM_ROWS,))
    return torch.where(torch.arange(LENGTH) < lengths.unsqueeze(1), ids(LENGTH), 0), lengths


def deepctr_torch() -> Iterator[Built]:
    """One packed matrix of columns: user, age, city, item, category, price, and a history where needed."""
    inputs = importlib.import_module("deepctr_torch.inputs")
    models = importlib.import_module("deepctr_torch.models")
    sparse = [inputs.SparseFeat(n, NUM_IDS, WIDTH) for n in ("user", "age", "city", "item", "category")]
    dense = [inputs.DenseFeat("price", 1)]
    history = inputs.VarLenSparseFeat(inputs.SparseFeat("hist_item", NUM_IDS, WIDTH, embedding_name="item"), LENGTH,
                                      length_name="seq_length")  # fmt: skip
    flat, sequence = [*sparse, *dense], [*sparse, *dense, history]
    plain = ("AFM", "AFN", "AutoInt", "CCPM", "DCN", "DCNMix", "DeepFM", "DIFM", "FiBiNET", "IFM", "MLR", "NFM", "ONN",
             "PNN", "WDL", "xDeepFM")  # fmt: skip
    tasks = ("ESMM", "MMOE", "PLE", "SharedBottom")

    def build(name: str, columns: list[Any]) -> tuple[nn.Module, Any, Any]:
        kind = getattr(models, name, None) or getattr(importlib.import_module("deepctr_torch.models.multitask"), name)
        if name in ("DIN", "DIEN"):
            model = kind(columns, ["item"], device="cpu")
        elif name in tasks:
            model = kind(columns, task_types=["binary"] * 2, task_names=["ctr", "ctcvr"])
        elif name == "PNN":
            model = kind(columns, use_inner=True, use_outter=True)
        elif name == "MLR":
            model = kind(columns)
        elif name in ("AFM", "CCPM"):  # they take no numbers
            model = kind(columns, [c for c in columns if not isinstance(c, inputs.DenseFeat)])
        else:
            model = kind(columns, columns)
        places = model.feature_index
        width = max(end for _, end in places.values())
        x = torch.zeros(NUM_ROWS, width)
        for feature, (start, end) in places.items():
            x[:, start:end] = torch.rand(NUM_ROWS, 1) if feature == "price" else ids(end - start).float()
        if "hist_item" in places:
            start, end = places["hist_item"]
            x[:, start:end], lengths = (t.float() for t in padded_history())
            x[:, places["seq_length"][0]] = lengths
        request = [f for f in ("user", "age", "city", "hist_item", "seq_length") if f in places]
        return model, x, {"X": [c for f in request for c in range(*places[f])]}

    for name in (*plain, *tasks):
        yield name, lambda name=name: build(name, flat)
    for name in ("DeepFM", "xDeepFM", "AutoInt", "WDL"):
        yield f"{name} with history", lambda name=name: build(name, sequence)
    for name in ("DIN", "DIEN"):
        yield name, lambda name=name: build(name, sequence)


def torchfm() -> Iterator[Built]:
    """One matrix of ids, three of the user and two of the item."""
    dims, mlp = [NUM_IDS] * 5, (16, 8)
    made: dict[str, Callable[[Any], nn.Module]] = {
        "lr.LogisticRegressionModel": lambda k: k(dims),
        "fm.FactorizationMachineModel": lambda k: k(dims, WIDTH),
        "ffm.FieldAwareFactorizationMachineModel": lambda k: k(dims, WIDTH),
        "hofm.HighOrderFactorizationMachineModel": lambda k: k(dims, order=3, embed_dim=WIDTH),
        "wd.WideAndDeepModel": lambda k: k(dims, WIDTH, mlp, 0.1),
        "fnn.FactorizationSupportedNeuralNetworkModel": lambda k: k(dims, WIDTH, mlp, 0.1),
        "pnn.ProductNeuralNetworkModel": lambda k: k(dims, WIDTH, mlp, 0.1, method="inner"),
        "dcn.DeepCrossNetworkModel": lambda k: k(dims, WIDTH, 2, mlp, 0.1),
        "nfm.NeuralFactorizationMachineModel": lambda k: k(dims, WIDTH, mlp, (0.1, 0.1)),
        "dfm.DeepFactorizationMachineModel": lambda k: k(dims, WIDTH, mlp, 0.1),
        "xdfm.ExtremeDeepFactorizationMachineModel": lambda k: k(dims, WIDTH, mlp, 0.1, (8, 8)),
        "afm.AttentionalFactorizationMachineModel": lambda k: k(dims, WIDTH, 8, (0.1, 0.1)),
        "afi.AutomaticFeatureInteractionModel": lambda k: k(dims, WIDTH, 8, 2, 2, mlp, (0.1, 0.1, 0.1)),
        "afn.AdaptiveFactorizationNetwork": lambda k: k(dims, WIDTH, 16, mlp, (0.1, 0.1)),
        "fnfm.FieldAwareNeuralFactorizationMachineModel": lambda k: k(dims, WIDTH, mlp, (0.1, 0.1)),
        "ncf.NeuralCollaborativeFiltering": lambda k: k(dims, WIDTH, mlp, 0.1, [0, 1, 2], [3, 4]),
    }

    def build(path: str, make: Callable[[Any], nn.Module]) -> tuple[nn.Module, Any, Any]:
        file, kind = path.split(".")
        return make(getattr(importlib.import_module(f"torchfm.model.{file}"), kind)), ids(5), {"x": slice(0, 3)}

    for path, make in made.items():
        yield path.split(".")[1], lambda path=path, make=make: build(path, make)


class Predict(nn.Module):
    """A RecBole model as a function of its columns: ``predict`` of an Interaction."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **columns: Tensor) -> Tensor:
        interaction = importlib.import_module("recbole.data.interaction").Interaction
        scores: Tensor = self.model.predict(interaction(columns))
        return scores


def recbole() -> Iterator[Built]:
    """Context-aware and sequential models over a made-up data set in RecBole's own format."""
    folder = Path(tempfile.mkdtemp()) / "made"
    folder.mkdir()
    gen = torch.Generator().manual_seed(0)
    rows = [f"u{int(torch.randint(9, (), generator=gen))}\ti{int(torch.randint(19, (), generator=gen))}\t{t % 2}\t{t}"
            for t in range(600)]  # fmt: skip
    (folder / "made.inter").write_text(
        "user_id:token\titem_id:token\tlabel:float\ttimestamp:float\n" + "\n".join(rows) + "\n"
    )
    (folder / "made.item").write_text(
        "item_id:token\tcategory:token\n" + "\n".join(f"i{k}\tc{k % 5}" for k in range(19)) + "\n"
    )
    (folder / "made.user").write_text(
        "user_id:token\tage:token\n" + "\n".join(f"u{k}\ta{k % 3}" for k in range(9)) + "\n"
    )
    context = _names(
        "AFM AutoInt DCN DCNV2 DeepFM DSSM EulerNet FFM FiGNN FM FNN FwFM KD_DAGFM LR NFM PNN WideDeep xDeepFM DIN DIEN"
    )
    sequential = _names(
        "BERT4Rec Caser CORE FDSA FEARec FOSSIL FPMC GCSAN GRU4Rec GRU4RecCPR GRU4RecF HGN HRM LightSANs "
        "NARM NextItNet NPE RepeatNet SASRec SASRecCPR SASRecF SHAN SINE SRGNN STAMP TransRec"
    )
    for name in (*context, *sequential):
        yield name, lambda name=name: _recbole_model(name, folder, name in context)


def _names(text: str) -> list[str]:
    return text.split()


def _recbole_model(name: str, folder: Path, is_context: bool) -> tuple[nn.Module, Any, Any]:
    for old, new in (("float_", "float64"), ("complex_", "complex128"), ("unicode_", "str_"), ("bool8", "bool_")):
        if not hasattr(numpy, old):  # it reads names that NumPy 2 dropped
            setattr(numpy, old, getattr(numpy, new))
    data = importlib.import_module("recbole.data")
    utils = importlib.import_module("recbole.utils")
    config_of = importlib.import_module("recbole.config").Config
    columns = {"inter": ["user_id", "item_id", "label", "timestamp"], "item": ["item_id", "category"],
               "user": ["user_id", "age"]}  # fmt: skip
    settings = {"data_path": str(folder.parent), "dataset": "made", "load_col": columns, "use_gpu": False,
                "MAX_ITEM_LIST_LENGTH": LENGTH, "selected_features": ["category"], "item_attribute": "category",
                "show_progress": False, "state": "ERROR", "LABEL_FIELD": "label", "train_neg_sample_args": None,
                "pretrain_path": None}  # fmt: skip
    argv, sys.argv = sys.argv, sys.argv[:1]
    try:
        config = config_of(model=name, dataset="made", config_dict=settings)
    finally:
        sys.argv = argv
    dataset = data.create_dataset(config)
    train = data.data_preparation(config, dataset)[0]
    for features in (train.dataset.user_feat, train.dataset.item_feat):  # it fills row 0 with NaN under pandas 3
        for column in features.interaction.values():
            column.clamp_(min=0)
    model = utils.get_model(name)(config, train.dataset)
    batch = train.dataset.inter_feat
    joined = train.dataset.join(batch[:NUM_ROWS]) if hasattr(train.dataset, "join") else batch[:NUM_ROWS]
    example = {k: v for k, v in joined.interaction.items() if isinstance(v, Tensor)}
    example = {k: v.long() if v.dtype in (torch.int32, torch.int64) else v for k, v in example.items()}
    item = [k for k in example if k in ("item_id", "category", "label")]
    example.pop("label", None)
    return Predict(model), example, [k for k in example if k not in item]


def rtdl_revisiting_models() -> Iterator[Built]:
    """Tabular nets over numbers and categories: the first half is the user's."""
    library = importlib.import_module("rtdl_revisiting_models")
    numbers = torch.randn(NUM_ROWS, 8)
    first = {"x": slice(0, 4)}
    yield "MLP", lambda: (library.MLP(d_in=8, d_out=1, n_blocks=2, d_block=32, dropout=0.1), numbers, first)
    resnet = {
        "n_blocks": 2,
        "d_block": 32,
        "d_hidden": None,
        "d_hidden_multiplier": 2.0,
        "dropout1": 0.1,
        "dropout2": 0.0,
    }
    yield "ResNet", lambda: (library.ResNet(d_in=8, d_out=1, **resnet), numbers, first)
    settings = library.FTTransformer.get_default_kwargs(1) if hasattr(library, "FTTransformer") else {}
    example = {"x_cont": numbers, "x_cat": ids(4)}
    both = {"x_cont": slice(0, 4), "x_cat": slice(0, 2)}
    yield "FTTransformer", lambda: (
        library.FTTransformer(n_cont_features=8, cat_cardinalities=[NUM_IDS] * 4, d_out=1, **settings), example, both,
    )  # fmt: skip


def tabm() -> Iterator[Built]:
    """An ensemble of nets with shared weights (2024), with and without number embeddings."""
    library = importlib.import_module("tabm")
    embeddings = importlib.import_module("rtdl_num_embeddings")
    example = {"x_num": torch.randn(NUM_ROWS, 8), "x_cat": ids(4)}
    both = {"x_num": slice(0, 4), "x_cat": slice(0, 2)}
    sizes = {"n_num_features": 8, "cat_cardinalities": [NUM_IDS] * 4, "d_out": 1}
    yield "TabM", lambda: (library.TabM.make(**sizes), example, both)
    yield "TabM-mini", lambda: (library.TabM.make(arch_type="tabm-mini", **sizes), example, both)
    numbers = lambda: embeddings.PeriodicEmbeddings(8, lite=False)  # noqa: E731
    yield "TabM periodic", lambda: (library.TabM.make(num_embeddings=numbers(), **sizes), example, both)


def transformers() -> Iterator[Built]:
    """Cross-encoders: [query; document] in one sequence, the query being the request's."""
    library = importlib.import_module("transformers")
    small = {"vocab_size": 100, "num_labels": 1, "attn_implementation": "eager"}
    encoder = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    llm = {**encoder, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
    kinds: dict[str, dict[str, Any]] = {
        "Bert": encoder, "Roberta": encoder, "Electra": {**encoder, "embedding_size": 32}, "XLMRoberta": encoder,
        "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
        "Albert": {**encoder, "embedding_size": 16},
        "MPNet": encoder, "DebertaV2": encoder, "ModernBert": {**encoder, "pad_token_id": 0},
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0},
        "Llama": llm, "Qwen2": llm, "Mistral": llm,
        "Gemma": {**llm, "head_dim": 8}, "Qwen3": {**llm, "head_dim": 8},
    }  # fmt: skip

    def build(kind: str, implementation: str) -> tuple[nn.Module, Any, Any]:
        settings = {**small, **kinds[kind], "attn_implementation": implementation}
        config = getattr(library, f"{kind}Config")(**settings)
        config.use_cache = False
        model = getattr(library, f"{kind}ForSequenceClassification")(config)
        words = torch.randint(3, 100, (NUM_ROWS, 12))
        example = {"input_ids": words, "attention_mask": torch.ones_like(words)}
        return Logits(model), example, {"input_ids": slice(0, 5), "attention_mask": slice(0, 5)}

    for kind in kinds:
        for implementation in ("eager", "sdpa"):
            yield f"{kind} {implementation}", lambda kind=kind, how=implementation: build(kind, how)


class Logits(nn.Module):
    """A sequence classifier's logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class LastOf(nn.Module):
    """History and candidate as one sequence through a wrapped transformer; the last position's first output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        out: Tensor = self.inner(torch.cat([history, item.unsqueeze(1)], 1))
        return out[:, -1, :2]


def x_transformers() -> Iterator[Built]:
    """Decoders and encoders with the options that people switch on."""
    library = importlib.import_module("x_transformers")
    example = (ids(LENGTH), ids())

    def build(kind: str, **settings: Any) -> tuple[nn.Module, Any, Any]:
        layers = getattr(library, kind)(dim=32, depth=2, heads=4, **settings)
        inner = library.TransformerWrapper(num_tokens=NUM_IDS, max_seq_len=16, attn_layers=layers)
        return LastOf(inner), example, ["history"]

    options: dict[str, dict[str, Any]] = {
        "plain": {}, "rotary": {"rotary_pos_emb": True}, "alibi": {"alibi_pos_bias": True}, "rmsnorm swiglu":
        {"use_rmsnorm": True, "ff_glu": True, "ff_swish": True}, "T5 bias": {"rel_pos_bias": True},
        "grouped keys": {"attn_kv_heads": 2}, "flash": {"attn_flash": True}, "macaron": {"macaron": True},
    }  # fmt: skip
    for kind in ("Decoder", "Encoder"):
        for name, settings in options.items():
            yield f"{kind} {name}", lambda kind=kind, settings=settings: build(kind, **settings)


SUBJECTS = ("crosses", "sequences", "texts", "scenes", "habits", "attention", "encoders", "batches", "idioms")


def styles(subject: str) -> Iterator[Built]:
    """Rankers written anew in the ways of public code, those of one file."""
    name = "foreign_styles" if subject == "crosses" else f"foreign_style_{subject}"
    importlib.import_module(name)
    every = importlib.import_module("foreign_styles").STYLES
    yield from ((model, build) for model, build in every.items() if build.__module__ == name)


LIBRARIES: dict[str, Callable[[], Iterator[Built]]] = (
    {
        f.__name__: f
        for f in (deepctr_torch, torchfm, recbole, rtdl_revisiting_models, tabm, transformers, x_transformers)
    }
    | {f"styles_{subject}": partial(styles, subject) for subject in SUBJECTS}
    | TABULAR
    | CTR
)
