// A slice of a tensor as it came over the wire: eight-bit codes for pictures, float32 for what is printed.
//
//   Tensor           shape, encoding, low, high; `codes` (eight bits, else null); `data` (float32, decoded on first use)
//   decode(…)        bytes and headers of an answer -> Tensor
//   fromNumbers(…)   numbers of the page's own -> Tensor
//   matrixOf(t, i)   the i-th matrix of a stack of matrices, without copying

export type Encoding = "f32" | "sqrt8" | "sym8";

export class Tensor {
  private decoded: Float32Array | null;

  constructor(
    /** Where it is from; equal keys mean equal numbers. Pictures are cached under it. */
    readonly key: string,
    readonly shape: readonly number[],
    readonly encoding: Encoding,
    readonly codes: Uint8Array | Int8Array | null,
    data: Float32Array | null,
    /** The range of the finite numbers. */
    readonly low: number,
    readonly high: number,
  ) {
    this.decoded = data;
  }

  get data(): Float32Array {
    this.decoded ??= decoded(this.encoding, this.codes!, this.high);
    return this.decoded;
  }

  get size(): number {
    return this.shape.reduce((product, side) => product * side, 1);
  }

  get bytes(): number {
    return (this.codes?.byteLength ?? 0) + (this.decoded?.byteLength ?? 0);
  }

  reshaped(shape: readonly number[]): Tensor {
    return new Tensor(this.key, shape, this.encoding, this.codes, this.codes ? null : this.data, this.low, this.high);
  }

  /** Whether a number read from it is the model's own, to the last bit of a float32. */
  get isExact(): boolean {
    return this.encoding === "f32";
  }
}

function decoded(encoding: Encoding, codes: Uint8Array | Int8Array, high: number): Float32Array {
  const data = new Float32Array(codes.length);
  if (encoding === "sqrt8") {
    for (let i = 0; i < codes.length; i++) data[i] = (codes[i] / 255) ** 2 * high;
  } else {
    for (let i = 0; i < codes.length; i++) data[i] = (codes[i] / 127) * high;
  }
  return data;
}

export function decode(key: string, bytes: ArrayBuffer, encoding: Encoding, shape: number[], low: number, high: number) {
  if (encoding === "f32") return new Tensor(key, shape, encoding, null, floats(bytes), low, high);
  const codes = encoding === "sqrt8" ? new Uint8Array(bytes) : new Int8Array(bytes);
  return new Tensor(key, shape, encoding, codes, null, low, high);
}

// The wire is little endian; so is every machine a browser runs on today, but a wrong number must not go unnoticed.
const LITTLE = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

function floats(bytes: ArrayBuffer): Float32Array {
  if (LITTLE) return new Float32Array(bytes);
  const view = new DataView(bytes);
  return Float32Array.from({ length: bytes.byteLength / 4 }, (_, i) => view.getFloat32(i * 4, true));
}

export function fromNumbers(key: string, shape: number[], numbers: ArrayLike<number>): Tensor {
  const data = Float32Array.from(numbers);
  const [low, high] = range(data);
  return new Tensor(key, shape, "f32", null, data, low, high);
}

/** Of the finite numbers; [0, 0] where there is none. */
export function range(data: ArrayLike<number>): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < data.length; i++) {
    const value = data[i];
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 0];
}

export function matrixOf(stack: Tensor, index: number): Tensor {
  const [rows, columns] = stack.shape.slice(-2);
  const from = index * rows * columns;
  const to = from + rows * columns;
  const codes = stack.codes?.subarray(from, to) ?? null;
  const data = codes ? null : stack.data.subarray(from, to);
  return new Tensor(`${stack.key}#${index}`, [rows, columns], stack.encoding, codes, data, stack.low, stack.high);
}
