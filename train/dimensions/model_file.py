"""Read the pooled statistics of a bundle's TFLite model, and add linear outputs on them.

The operators and weights of the model stay as they are, and so do the bits of its outputs. A new
training run would not reproduce them.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError

ALIGNMENT = 16
"""Of the weights in the file, in bytes; the schema demands it, the generated classes use 4."""
FILE_KIND = b"TFL3"


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer that is written with the alignment of the schema.

    Args:
        data: uint8, (n,).
    """

    def __init__(self, data: NDArray[np.uint8]) -> None:
        super().__init__()
        self.data = data

    def Pack(self, builder: Any) -> int:  # noqa: N802 (name of the generated classes)
        size = len(self.data)
        builder.StartVector(1, size, ALIGNMENT)
        builder.head -= size
        builder.Bytes[builder.head : builder.head + size] = self.data.tobytes()
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


class ModelFile:
    """A TFLite model whose outputs are scores of standardized statistics of the window.

    Raises:
        UserError: it has no such statistics.
    """

    def __init__(self, content: bytes) -> None:
        self._model = schema.ModelT.InitFromPackedBuf(content, 0)
        self._graph = self._model.subgraphs[0]
        names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
        self._codes = {
            names[max(code.builtinCode, code.deprecatedBuiltinCode)]: index
            for index, code in enumerate(self._model.operatorCodes)
        }
        readers: collections.Counter[int] = collections.Counter()
        for operator in self._graph.operators:
            if operator.opcodeIndex == self._codes.get("MUL") and self._is_row(operator.inputs[0]):
                readers[int(operator.inputs[0])] += 1
        self._statistics, count = readers.most_common(1)[0] if readers else (0, 0)
        last = self._graph.operators[-1]
        if count < 2 or last.opcodeIndex != self._codes.get("CONCATENATION"):
            raise UserError("the model has no pooled statistics with several linear outputs")

    @property
    def columns(self) -> int:
        """Number of statistics of a window."""
        return int(self._graph.tensors[self._statistics].shape[1])

    def statistics(self) -> bytes:
        """The model with the statistics (1, columns) as its output."""
        before, signatures = self._graph.outputs, self._model.signatureDefs
        self._graph.outputs, self._model.signatureDefs = [self._statistics], None
        try:
            return self._pack()
        finally:
            self._graph.outputs, self._model.signatureDefs = before, signatures

    def append(self, weight: NDArray[np.float32], bias: Sequence[float]) -> bytes:
        """The model with `statistics @ weight + bias` after its other outputs.

        Args:
            weight: (columns, values).
            bias: (values,).
        """
        *others, last = self._graph.operators
        axis = self._constant(np.array([1], np.int32), schema.TensorType.INT32)
        for row, constant in zip(weight.T, bias, strict=True):
            product, total, value = (self._tensor(n) for n in (self.columns, 1, 1))
            factor = self._constant(np.asarray(row, np.float32), schema.TensorType.FLOAT32)
            offset = self._constant(np.array([constant], np.float32), schema.TensorType.FLOAT32)
            keep = schema.ReducerOptionsT(keepDims=True)
            others += [
                self._operator("MUL", [self._statistics, factor], product, schema.MulOptionsT()),
                self._operator("SUM", [product, axis], total, keep),
                self._operator("ADD", [total, offset], value, schema.AddOptionsT()),
            ]
            last.inputs = [*last.inputs, value]
        self._graph.operators = [*others, last]
        output = self._graph.tensors[last.outputs[0]]
        output.shape = np.array([1, output.shape[1] + len(bias)], np.int32)
        return self._pack()

    def insert_mean_square(self, columns: slice, position: int) -> bytes:
        """The model with the mean square of some statistics among its outputs.

        Args:
            columns: of the statistics.
            position: in the list of what the last operator joins: one tensor of all labels'
                probabilities, then one tensor for each further output.
        """
        *others, last = self._graph.operators
        axis = self._constant(np.array([1], np.int32), schema.TensorType.INT32)
        share = np.zeros(self.columns, np.float32)
        share[columns] = 1.0 / len(share[columns])
        factor = self._constant(share, schema.TensorType.FLOAT32)
        square, product, value = (self._tensor(n) for n in (self.columns, self.columns, 1))
        row, keep = self._statistics, schema.ReducerOptionsT(keepDims=True)
        others += [
            self._operator("MUL", [row, row], square, schema.MulOptionsT()),
            self._operator("MUL", [square, factor], product, schema.MulOptionsT()),
            self._operator("SUM", [product, axis], value, keep),
        ]
        joined = list(last.inputs)
        last.inputs = [*joined[:position], value, *joined[position:]]
        self._graph.operators = [*others, last]
        output = self._graph.tensors[last.outputs[0]]
        output.shape = np.array([1, output.shape[1] + 1], np.int32)
        return self._pack()

    def _is_row(self, tensor: int) -> bool:
        shape = self._graph.tensors[tensor].shape
        return shape is not None and len(shape) == 2 and shape[0] == 1 and shape[1] > 1

    def _tensor(self, size: int, buffer: int = 0) -> int:
        return self._add(schema.TensorT(np.array([1, size], np.int32), buffer=buffer))

    def _constant(self, values: NDArray[Any], kind: int) -> int:
        self._model.buffers.append(_AlignedBuffer(np.frombuffer(values.tobytes(), np.uint8)))
        shape, buffer = np.array(values.shape, np.int32), len(self._model.buffers) - 1
        return self._add(schema.TensorT(shape, kind, buffer))

    def _add(self, tensor: Any) -> int:
        tensor.name, tensor.hasRank = f"added_{len(self._graph.tensors)}", True
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(self, name: str, inputs: list[int], output: int, options: Any) -> Any:
        kind = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return schema.OperatorT(self._codes[name], inputs, [output], kind, options)

    def _pack(self) -> bytes:
        self._model.buffers = [
            b if b.data is None or not len(b.data) else _AlignedBuffer(b.data)
            for b in self._model.buffers
        ]
        size = sum(len(b.data) for b in self._model.buffers if b.data is not None)
        builder = flatbuffers.Builder(2 * size)
        builder.Finish(self._model.Pack(builder), FILE_KIND)
        return bytes(builder.Output())
