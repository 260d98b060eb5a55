"""Rivals for a level's products: ``torch.compile`` in bf16, ONNX Runtime and OpenVINO in int8, on the same stack.

A stack is the linear layers of the deepest level, each with its own shape and candidates, in one graph: what a rival is
given is the shared graph, already without anything that is the same for all candidates. A rival that is not installed
is left out and named.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

WIDTH, DEPTH, OUT = 1_024, 6, 1_024
ROWS = (24, 256, 1_024)


class Stack(nn.Module):
    """SwiGLU blocks as the deepest level of the large preset has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gates = nn.ModuleList(nn.Linear(WIDTH, 4 * WIDTH, bias=False) for _ in range(DEPTH // 2))
        self.downs = nn.ModuleList(nn.Linear(2 * WIDTH, OUT, bias=False) for _ in range(DEPTH // 2))

    def forward(self, x: Tensor) -> Tensor:
        for gate_and_up, down in zip(self.gates, self.downs, strict=True):
            gate, up = gate_and_up(x).chunk(2, dim=-1)
            x = x + down(torch.nn.functional.silu(gate) * up)
        return x


def measure() -> dict[str, Any]:
    """Milliseconds of every form at several numbers of candidates, interleaved, and errors against fp32."""
    stack = Stack().eval().requires_grad_(False)
    forms: dict[str, Callable[[Tensor], Any]] = {"eager fp32": stack}
    absent: dict[str, str] = {}
    makers = {
        "ours bf16": lambda: _ours(stack, "bf16"),
        "ours int8": lambda: _ours(stack, "int8-static"),
        "torch.compile bf16": lambda: _compiled(stack),
        "onnxruntime int8 dynamic": lambda: _onnx(stack, static=False),
        "onnxruntime int8 static": lambda: _onnx(stack, static=True),
        "openvino int8": lambda: _openvino(stack),
    }
    for name, make in makers.items():
        try:
            forms[name] = make()
        except ImportError as error:
            absent[name] = f"not installed: {error.name}"
        except Exception as error:  # noqa: BLE001 - a rival that cannot run the graph is a result, told as such
            absent[name] = f"{type(error).__name__}: {str(error)[:160]}"
    rows = {str(n): _interleaved(forms, torch.randn(n, WIDTH)) for n in ROWS}
    for n, found in rows.items():
        told = ", ".join(f"{name} {row['ms']:.2f} ms (error {row['error']:.1e})" for name, row in found.items())
        print(f"  rivals, {n} candidates: {told}")
    for name, why in absent.items():
        print(f"  {name}: {why}")
    return {"stack": {"width": WIDTH, "products": DEPTH}, "candidates": rows, "absent": absent}


def _interleaved(forms: dict[str, Callable[[Tensor], Any]], x: Tensor, rounds: int = 12) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in forms}
    answers = {}
    with torch.no_grad():
        for number in range(rounds + 2):
            for name, form in forms.items():
                started = time.perf_counter()
                answers[name] = form(x)
                times[name] += [(time.perf_counter() - started) * 1e3] if number > 1 else []
    exact = _array(answers["eager fp32"])
    return {
        name: {
            "ms": float(np.median(values)),
            "speedup": float(np.median(times["eager fp32"]) / np.median(values)),
            "error": float(np.linalg.norm(_array(answers[name]) - exact) / np.linalg.norm(exact)),
        }
        for name, values in times.items()
    }


def _array(answer: Any) -> Any:
    return answer.float().numpy() if isinstance(answer, Tensor) else np.asarray(answer, dtype=np.float32)


def _sample() -> Tensor:
    return torch.randn(512, WIDTH, generator=torch.Generator().manual_seed(1))


def _ours(stack: Stack, format: str) -> Callable[[Tensor], Any]:
    from depthrank.precision import Format, LayerChoice, in_formats, layers_of
    from depthrank.precision.observed import observed

    with observed(stack) as seen:
        stack(_sample())
    static = format == Format.INT8_STATIC
    choices = {n: LayerChoice(Format(format), seen[n].input_scale() if static else None) for n in layers_of(stack)}
    return in_formats(stack, choices)


def _compiled(stack: Stack) -> Callable[[Tensor], Any]:
    import copy

    import torch._inductor.config as inductor

    inductor.freezing = True
    form = torch.compile(copy.deepcopy(stack).to(torch.bfloat16), dynamic=True)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return form(x.to(torch.bfloat16))  # type: ignore[no-any-return]

    for n in ROWS:
        run(torch.randn(n, WIDTH))
    return run


def _onnx_model(stack: Stack, folder: Path) -> Path:
    import onnx

    path = folder / "stack.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            stack, (_sample(),), str(path), dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "rows"}, "y": {0: "rows"}}, opset_version=17,
        )  # fmt: skip
    model = onnx.load(str(path))
    del model.graph.value_info[:]  # stale shapes make the quantizer fail
    onnx.save(model, str(path))
    return path


def _onnx(stack: Stack, *, static: bool) -> Callable[[Tensor], Any]:
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._given = iter([{"x": _sample().numpy()}])

        def get_next(self) -> Any:
            return next(self._given, None)

    with tempfile.TemporaryDirectory() as name:
        plain, int8 = _onnx_model(stack, Path(name)), Path(name) / "int8.onnx"
        if static:
            quantize_static(str(plain), str(int8), Reader(), per_channel=True, weight_type=QuantType.QInt8)
        else:
            quantize_dynamic(str(plain), str(int8), per_channel=True, weight_type=QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(int8), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def _openvino(stack: Stack) -> Callable[[Tensor], Any]:
    import nncf
    import openvino

    with tempfile.TemporaryDirectory() as name:
        model = openvino.Core().read_model(str(_onnx_model(stack, Path(name))))
    quantized = nncf.quantize(model, nncf.Dataset([_sample().numpy()]))
    threads = {"INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    compiled = openvino.Core().compile_model(quantized, "CPU", threads)
    return lambda x: compiled([x.numpy()])[0]


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from depthrank.cli.threads import set_torch_threads

    set_torch_threads(1)
    measure()
