// What stands inside the seal, read as docs/vectors/README.md describes it: the request, the answer's events, the text pack.

import { concat, sha256, text } from "./darkbloom.mjs";

// One CBOR item (RFC 8949): integers, byte strings, texts, arrays, maps, floats of four bytes, booleans.
export function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const take = (count) => {
    if (at + count > bytes.length) throw new Error("the bytes end too soon");
    at += count;
    return at - count;
  };
  const argument = (short) => {
    if (short < 24) return short;
    if (short === 24) return view.getUint8(take(1));
    if (short === 25) return view.getUint16(take(2));
    if (short === 26) return view.getUint32(take(4));
    const number = Number(view.getBigUint64(take(8)));
    if (short !== 27 || !Number.isSafeInteger(number)) throw new Error("no such number is used");
    return number;
  };
  const item = () => {
    const first = view.getUint8(take(1));
    if (first === 0xf4 || first === 0xf5) return first === 0xf5;
    if (first === 0xfa) return view.getFloat32(take(4));
    const count = argument(first & 0x1f);
    switch (first >> 5) {
      case 0: return count;
      case 1: return -1 - count;
      case 2: return bytes.subarray(take(count), at);
      case 3: return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(take(count), at));
      case 4: return Array.from({ length: count }, item);
      case 5: return new Map(Array.from({ length: count }, () => [item(), item()]));
      default: throw new Error("no such item is used");
    }
  };
  const value = item();
  if (at !== bytes.length) throw new Error("more than one item");
  return value;
}

const ROLES = ["system", "user", "assistant", "tool"];
const REASONS = ["stop", "length", "tool_calls"];

function readMessage([role, content, more]) {
  const message = { role: ROLES[role], content };
  if (more?.has(1)) message.reasoning = more.get(1);
  if (more?.has(2)) message.calls = more.get(2);
  if (more?.has(3)) message.call_id = more.get(3);
  return message;
}

export function readRequest(bytes) {
  const map = decode(bytes);
  const request = { messages: map.get(1).map(readMessage), temperature: map.get(2), top_p: map.get(3) };
  if (map.has(4)) request.seed = map.get(4);
  if (map.has(5)) request.stop = map.get(5);
  if (map.has(20)) request.tools = map.get(20);
  return request;
}

export function readEvent(bytes) {
  const map = decode(bytes);
  switch (map.get(1)) {
    case 0: return { kind: "delta", tokens: map.get(2), ...(map.has(9) ? { parts: map.get(9) } : { text: map.get(3) }) };
    case 1: return { kind: "finish", reason: REASONS[map.get(4)], input_tokens: map.get(5), output_tokens: map.get(6) };
    case 2: return { kind: "failure", code: map.get(7), detail: map.get(8) };
    default: throw new Error("no such event");
  }
}

export async function operationOf(apiKey, idempotencyKey) {
  const key = await sha256(text("darkbloom/v1/operation-key"), text(apiKey));
  return (await sha256(concat(text("darkbloom/v1/operation"), key, text(idempotencyKey)))).subarray(0, 16);
}
