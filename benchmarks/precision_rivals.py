"""The deeper levels of one request, by us and by rivals: the shared graph, and the model as its author would write it.

    python benchmarks/precision_rivals.py --world FOLDER [--threads 1] [--seconds 30] [--skip NAME ...] [--json F]

The shared graph is everything after level 0 at plan (2000, 256, 64, 24) with a warm user state: levels 1, 2 and 3, the
survivors' indexes given, all shapes fixed. What rivals get is the same graph with the same inputs: ``torch.compile`` in
bf16 with frozen weights, ONNX Runtime int8 (dynamic and static) and OpenVINO int8 (NNCF). Ours is the model under the
policy in FOLDER/artifact (made there where there is none), eager, and with its levels compiled as serving compiles them
(any number of candidates and any history).

Pair by pair is the model as its author wrote it: history, request and candidate of each row go through the user
encoder and all levels. Only the last level's 24 candidates are counted, ``PAIRS`` at a time, and nothing of the wider
levels: compare ``request_ms`` with the cold request of ``bench_precision``, which ranks all 2,000. A lower bound.

Forms run in turn. A rival that is not installed or cannot run the graph is named with its reason. OpenVINO: see
``bench_precision``.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from depthrank.precision import AttentionLayer, layers_of
from depthrank.precision.in_formats import replaced

PLAN = (2_000, 256, 64, 24)
PAIRS = 4
ROUNDS_AT_LEAST = 5
Form = Callable[[Sequence[Tensor]], Any]


class SharedLevels(nn.Module):
    """Levels 1.. of one request, survivors picked between them: logits and states of the last."""

    def __init__(self, experts: nn.ModuleList) -> None:
        super().__init__()
        from depthrank.model.level_graph import LevelGraph

        self.graphs = nn.ModuleList(LevelGraph(expert) for expert in experts)

    def forward(
        self,
        tokens_NTD: Tensor,
        x_ND: Tensor,
        logits_NK: Tensor,
        request_1UD: Tensor,
        age_1P: Tensor,
        visible_1P: Tensor,
        length_1: Tensor,
        *more: Tensor,
    ) -> Tensor:
        """``more``: the survivors' indexes of the levels after the first, then keys and values of every layer."""
        picks, keys_and_values = more[: len(self.graphs) - 1], more[len(self.graphs) - 1 :]
        for number, graph in enumerate(self.graphs):
            if number:
                pick = picks[number - 1]
                tokens_NTD, x_ND, logits_NK = tokens_NTD[pick], x_ND[pick], logits_NK[pick]
            pairs = [keys_and_values[2 * layer + which] for layer in graph.layers for which in (0, 1)]
            logits_NK, x_ND = graph(tokens_NTD, x_ND, logits_NK, request_1UD, age_1P, visible_1P, length_1, *pairs)
        return torch.cat((logits_NK, x_ND), dim=1)  # heads of a model that was not trained say nothing


class OneEach:
    """A layout of one candidate a request, without anything that depends on data."""

    def __init__(self, num_pairs: int) -> None:
        self.num_requests = self.num_candidates = self.num_slots = num_pairs
        self.request_of_row_Q = None

    def pad(self, x_ND: Tensor) -> Tensor:
        return x_ND.unsqueeze(1)

    def unpad(self, x_R1D: Tensor) -> Tensor:
        return x_R1D.squeeze(1)


class WrittenOut(AttentionLayer):
    """Attention as two products and a softmax: what an ONNX export can say."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, causal: bool = False) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores if bias is None else scores + bias
        if causal:
            scores = scores + torch.full((q.shape[2], k.shape[2]), -1e9).triu(1)
        mixed: Tensor = scores.softmax(dim=-1) @ v
        return mixed


class PairByPair(nn.Module):
    """User encoder and all levels for rows of (history, request, candidate)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        attention = [name for name, layer in layers_of(model).items() if isinstance(layer, AttentionLayer)]
        model = replaced(model, {name: WrittenOut() for name in attention})
        self.encoder, self.experts, self.layers = model.encoder, model.experts, model.config.encoder_layers

    def forward(
        self,
        history_BPD: Tensor,
        tokens_BTD: Tensor,
        x_BD: Tensor,
        logits_BK: Tensor,
        request_BUD: Tensor,
        age_BP: Tensor,
        visible_BP: Tensor,
        length_B: Tensor,
    ) -> Tensor:
        """Logits and states of the last level; ``history_BPD``: tokens of the history."""
        from depthrank.model.expert import CandidateState, RequestView
        from depthrank.model.user_encoder import UserState

        state = self.encoder.deepen_(UserState(history_BPD, [], []), self.layers)
        view: Any = RequestView(state, None, age_BP, visible_BP, length_B, request_BUD)
        candidates, rows = CandidateState(tokens_BTD, x_BD), torch.arange(PAIRS)
        for expert in self.experts:
            logits_BK, candidates = expert(candidates, view, OneEach(PAIRS), rows, logits_BK)
        return torch.cat((logits_BK, candidates.x_ND), dim=1)


class Given:
    """Inputs of both graphs, taken from a request as the engine runs it in fp32."""

    def __init__(self, ranker: Any, requests: Sequence[Any]) -> None:
        self.shared = [self._of(ranker, request) for request in requests]
        self.pairs = [_repeated(ranker, inputs) for inputs in self.shared[:1]]

    @staticmethod
    def _of(ranker: Any, request: Any) -> list[Tensor]:
        """What level 1 is given; survivors are the first candidates."""
        calls: list[tuple[Any, ...]] = []
        model = ranker.artifact.model
        hook = model.experts[0].register_forward_pre_hook(lambda module, given: calls.append(given))
        ranker.rank(request)
        ranker.rank(request)
        hook.remove()
        candidates, view, _, _, logits_NK = calls[-1][:5]
        model.encoder.deepen_(view.state, model.config.encoder_layers)
        layers = range(model.config.encoder_layers)
        pairs = [part for layer in layers for part in view.keys_values(layer)]
        picks = [torch.arange(width) for width in PLAN[2:]]
        first = [candidates.tokens_NTD, candidates.x_ND, logits_NK, view.tokens_RTD]
        given = [*first, view.age_RP, view.visible_RP, view.length_R, *picks, *pairs]
        return [part.clone().contiguous() for part in given]


def _repeated(ranker: Any, shared: Sequence[Tensor]) -> list[Tensor]:
    """The first candidates of a request as rows of their own."""
    config = ranker.artifact.model.config
    tokens_NTD, x_ND, logits_NK, request_1UD, age_1P, visible_1P, length_1 = shared[:7]
    history_1PD = torch.randn(1, age_1P.shape[1], config.width, generator=torch.Generator().manual_seed(0))
    of_request = [history_1PD, request_1UD, age_1P, visible_1P, length_1]
    history, request, age, visible, many = (part.expand(PAIRS, *part.shape[1:]).contiguous() for part in of_request)
    rows = slice(0, PAIRS)
    return [history, tokens_NTD[rows], x_ND[rows], logits_NK[rows], request, age, visible, many]


def measure(folder: Path, choices: Mapping[str, Any], seconds: float, skip: Sequence[str] = ()) -> dict[str, Any]:
    """Milliseconds of every form and errors against fp32; ``folder``: where the large preset was built."""
    import msgspec

    import synthetic_world
    from depthrank.artifact import load_artifact
    from depthrank.engine import Ranker
    from depthrank.engine.depth import FixedDepth
    from depthrank.events import open_log
    from depthrank.precision import in_formats
    from depthrank.routing import Plan
    from depthrank.schema.wire import decode_request

    artifact, log = load_artifact(folder / "artifact"), open_log(f"lmdb:{folder / 'events'}")
    ranker = Ranker(artifact, log)
    ranker._choose = lambda *args, **options: FixedDepth(Plan(PLAN))  # type: ignore[method-assign]
    bodies = list(synthetic_world.request_bodies(10))[:2]
    with torch.inference_mode(False), torch.no_grad():
        given = Given(ranker, [decode_request(msgspec.json.encode(body), ranker.limits) for body in bodies])
    log.close()
    plain = artifact.trained or artifact.model
    shared, served = SharedLevels(plain.experts).eval(), SharedLevels(in_formats(plain, choices).experts).eval()
    pair = PairByPair(plain).eval()
    example, calibration = given.shared[0], given.shared
    forms, absent = _made(
        {
            "eager fp32": lambda: lambda x: shared(*x),
            "ours": lambda: lambda x: served(*x),
            "ours compiled": lambda: _ours_compiled(plain, choices),
            "torch.compile bf16": lambda: _compiled(shared, example),
            "onnxruntime int8 dynamic": lambda: _onnx(shared, calibration, static=False),
            "onnxruntime int8 static": lambda: _onnx(shared, calibration, static=True),
            "openvino int8": lambda: _openvino(shared, calibration),
        },
        skip,
    )
    found = _interleaved(forms, example, seconds * 2 / 3)
    _told("the shared graph", found)
    pairs, absent_pairs = _made(
        {
            "eager fp32": lambda: lambda x: pair(*x),
            "onnxruntime int8 dynamic": lambda: _onnx(pair, given.pairs, static=False),
            "openvino int8": lambda: _openvino(pair, given.pairs),
        },
        skip,
    )
    by_pair = _interleaved(pairs, given.pairs[0], seconds / 3)
    for row in by_pair.values():
        row["request_ms"] = row["ms"] * PLAN[-1] / PAIRS
    _told(f"{PAIRS} pairs", by_pair)
    for name, why in {**absent, **{f"{n}, pair by pair": w for n, w in absent_pairs.items()}}.items():
        print(f"  {name}: {why}")
    return {
        "plan": list(PLAN),
        "shared_graph": found,
        "rival_over_ours": {
            own: {name: row["ms"] / found[own]["ms"] for name, row in found.items() if "ours" not in name}
            for own in found
            if "ours" in own
        },
        "pair_by_pair": by_pair,
        "pairs_at_a_time": PAIRS,
        "absent": absent,
        "absent_pair_by_pair": absent_pairs,
    }


def _ours_compiled(plain: Any, choices: Mapping[str, Any]) -> Form:
    """All levels compiled, from the cache or now (20 to 60 s a level)."""
    from depthrank.engine.compiled_levels import with_compiled_level
    from depthrank.precision import examine_hardware, in_formats

    model, fingerprint = in_formats(plain, choices), examine_hardware().fingerprint
    for level in range(1, plain.config.num_levels):
        model = with_compiled_level(plain, model, level, choices, fingerprint)
    for expert in model.experts:  # what a graph of a level asks for; the preset has neither
        object.__setattr__(expert, "cross", None)
        object.__setattr__(expert, "transitions", None)
    shared = SharedLevels(model.experts).eval()
    return lambda x: shared(*x)


def _made(makers: Mapping[str, Callable[[], Form]], skip: Sequence[str]) -> tuple[dict[str, Form], dict[str, str]]:
    """The forms that could be made, and why the others could not."""
    forms: dict[str, Form] = {}
    absent = {name: "left out by --skip" for name in makers if any(part in name for part in skip)}
    for name, make in makers.items():
        if name in absent:
            continue
        started = time.perf_counter()
        try:
            forms[name] = make()
        except ImportError as error:
            absent[name] = f"not installed: {error.name}"
        except Exception as error:  # noqa: BLE001 - a rival that cannot run the graph is a result, told as such
            absent[name] = f"{type(error).__name__}: {str(error)[:200]}"
        print(f"  {name}: made in {time.perf_counter() - started:.0f} s", flush=True)
    return forms, absent


@torch.no_grad()
def _interleaved(forms: Mapping[str, Form], given: Sequence[Tensor], seconds: float) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in forms}
    answers, rounds, until = {}, 0, time.perf_counter() + seconds
    while rounds < ROUNDS_AT_LEAST + 1 or time.perf_counter() < until:
        for name, form in forms.items():
            started = time.perf_counter()
            answers[name] = form(given)
            times[name] += [(time.perf_counter() - started) * 1e3] if rounds else []
        rounds += 1
    exact = _array(answers["eager fp32"])
    return {
        name: {
            "ms": float(np.median(values)),
            "best_ms": min(values),
            "speedup_over_fp32": float(np.median(times["eager fp32"]) / np.median(values)),
            "error": float(np.linalg.norm(_array(answers[name]) - exact) / np.linalg.norm(exact)),
            "calls": len(values),
        }
        for name, values in times.items()
    }


def _told(what: str, found: Mapping[str, Any]) -> None:
    for name, row in found.items():
        print(f"  {what}: {name:26} {row['ms']:8.1f} ms  {row['speedup_over_fp32']:.2f}x  error {row['error']:.1e}")


def _array(answer: Any) -> Any:
    return answer.float().numpy() if isinstance(answer, Tensor) else np.asarray(answer, dtype=np.float32)


def _compiled(graph: nn.Module, example: Sequence[Tensor]) -> Form:
    import torch._inductor.config as inductor

    inductor.freezing = True
    form = torch.compile(copy.deepcopy(graph).to(torch.bfloat16), dynamic=False)

    def run(given: Sequence[Tensor]) -> Any:
        with torch.no_grad():
            return form(*(part.to(torch.bfloat16) if part.is_floating_point() else part for part in given))

    run(example)
    return run


def _onnx_model(graph: nn.Module, example: Sequence[Tensor], folder: Path) -> Path:
    import onnx

    path = folder / "graph.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph, tuple(example), str(path), dynamo=False, opset_version=17,
            input_names=[f"x{k}" for k in range(len(example))], output_names=["y"],
        )  # fmt: skip
    model = onnx.load(str(path))
    del model.graph.value_info[:]  # stale shapes make the quantizer fail
    onnx.save(model, str(path))
    return path


def _named(given: Sequence[Tensor], names: Sequence[str]) -> dict[str, Any]:
    """Inputs by name; an input that the graph does not read is not in the exported one."""
    return {name: given[int(name[1:])].numpy() for name in names}


def _onnx(graph: nn.Module, calibration: Sequence[Sequence[Tensor]], *, static: bool) -> Form:
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        plain, int8 = _onnx_model(graph, calibration[0], Path(folder)), Path(folder) / "int8.onnx"
        names = [one.name for one in onnx.load(str(plain)).graph.input]

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._given = iter([_named(given, names) for given in calibration])

            def get_next(self) -> Any:
                return next(self._given, None)

        if static:
            quantize_static(str(plain), str(int8), Reader(), per_channel=True, weight_type=QuantType.QInt8)
        else:
            quantize_dynamic(str(plain), str(int8), per_channel=True, weight_type=QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(int8), options, providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, _named(given, names))[0]


def _openvino(graph: nn.Module, calibration: Sequence[Sequence[Tensor]]) -> Form:
    import nncf
    import onnx
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = _onnx_model(graph, calibration[0], Path(folder))
        names = [one.name for one in onnx.load(str(path)).graph.input]
        model = openvino.Core().read_model(str(path))
    dataset = nncf.Dataset([_named(given, names) for given in calibration])
    quantized = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, fast_bias_correction=True)
    threads = {"INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    compiled = openvino.Core().compile_model(quantized, "CPU", threads)
    return lambda given: compiled(_named(given, names))[0]


def policy_choices(folder: Path) -> Mapping[str, Any]:
    """The policy for this machine in FOLDER/artifact, made there by a short tuning where there is none."""
    from depthrank.evaluate.tune_artifact import tune
    from depthrank.precision import examine_hardware, read_policy
    from depthrank.training.tuning_requests import Settings

    policy = read_policy(folder / "artifact", examine_hardware().fingerprint)
    if policy is None:
        settings = Settings(requests=16, candidates=PLAN[0], plans=(PLAN,), judge_seconds=10.0, compile=True)
        url = f"lmdb:{folder / 'events'}"
        policy = tune(folder / "artifact", folder / "ranking.yaml", url, settings, on_phase=print).policy
    return policy.choices


def main() -> None:
    import bench_large_preset
    from depthrank.cli.threads import set_torch_threads
    from machine_facts import machine_facts, show_facts, torch_facts, write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, required=True, help="where the large preset was built, or is to be")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing, beside what forms take to be made")
    parser.add_argument("--skip", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    facts = machine_facts("depthrank", "onnxruntime", "openvino", "nncf")
    show_facts(facts)
    set_torch_threads(arguments.threads)
    if not (arguments.world / "artifact").is_dir():
        bench_large_preset.build(arguments.world, "large")
    found = measure(arguments.world, policy_choices(arguments.world), arguments.seconds, arguments.skip)
    if arguments.json:
        write_json(arguments.json, {"machine": facts | {"torch": torch_facts()}, **found})


if __name__ == "__main__":
    main()
