// Sealing and opening as docs/vectors/README.md describes them, with WebCrypto and HPKE from another implementation.

import { Aes256Gcm, CipherSuite, HkdfSha256 } from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";

const subtle = globalThis.crypto.subtle;
const suite = new CipherSuite({ kem: new XWing(), kdf: new HkdfSha256(), aead: new Aes256Gcm() });
const WRAP_INFO = text("darkbloom/v1/wrap");
const ZERO_NONCE = new Uint8Array(12);

export function text(string) {
  return new TextEncoder().encode(string);
}

export function hex(bytes) {
  return Buffer.from(bytes).toString("hex");
}

export function unhex(string) {
  if (!/^([0-9a-f]{2})*$/.test(string)) throw new Error("not lower-case hex");
  return new Uint8Array(Buffer.from(string, "hex"));
}

export function concat(...parts) {
  return new Uint8Array(Buffer.concat(parts));
}

function u32(number) {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, number);
  return bytes;
}

export async function sha256(...parts) {
  return new Uint8Array(await subtle.digest("SHA-256", concat(...parts)));
}

export async function hkdf(salt, key, info, length) {
  const imported = await subtle.importKey("raw", key, "HKDF", false, ["deriveBits"]);
  const bits = await subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt, info }, imported, length * 8);
  return new Uint8Array(bits);
}

async function aes(key, use) {
  return subtle.importKey("raw", key, "AES-GCM", false, [use]);
}

async function encrypt(key, iv, additionalData, plaintext) {
  return new Uint8Array(await subtle.encrypt({ name: "AES-GCM", iv, additionalData }, await aes(key, "encrypt"), plaintext));
}

async function decrypt(key, iv, additionalData, ciphertext) {
  return new Uint8Array(await subtle.decrypt({ name: "AES-GCM", iv, additionalData }, await aes(key, "decrypt"), ciphertext));
}

// The length as four bytes, the content, zeros.
export function pad(content, size) {
  if (content.length + 4 > size) throw new Error("the content does not fit");
  const padded = new Uint8Array(size);
  padded.set(u32(content.length));
  padded.set(content, 4);
  return padded;
}

export function unpad(padded) {
  const length = new DataView(padded.buffer, padded.byteOffset).getUint32(0);
  if (length > padded.length - 4) throw new Error("the padding is not valid");
  if (padded.subarray(4 + length).some((byte) => byte !== 0)) throw new Error("the padding is not zeros");
  return padded.subarray(4, 4 + length);
}

export function bodySize(length) {
  let size = 1024;
  while (size < length + 4) size *= 2;
  if (size > 1 << 20) throw new Error("the request is too long");
  return size;
}

// Deterministic CBOR (RFC 8949 section 4.2.1), as much as a header needs: integers, booleans, byte strings.
function head(major, argument) {
  const number = BigInt(argument);
  if (number < 24n) return Uint8Array.of((major << 5) | Number(number));
  const width = number < 0x100n ? 0 : number < 0x10000n ? 1 : number < 0x100000000n ? 2 : 3;
  const bytes = new Uint8Array(1 + (1 << width));
  bytes[0] = (major << 5) | (24 + width);
  let rest = number;
  for (let at = bytes.length - 1; at > 0; at--) {
    bytes[at] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return bytes;
}

function item(value) {
  if (typeof value === "boolean") return Uint8Array.of(value ? 0xf5 : 0xf4);
  if (value instanceof Uint8Array) return concat(head(2, value.length), value);
  return value < 0 ? head(1, -1n - BigInt(value)) : head(0, value);
}

// A map whose keys are 1, 2, 3 …
export function record(values) {
  return concat(head(5, values.length), ...values.flatMap((value, index) => [item(index + 1), item(value)]));
}

// The byte strings of a map whose keys are 1, 2, 3 …; other values as they stand.
export function readHeader(bytes) {
  let at = 0;
  const argument = () => {
    const short = bytes[at++] & 0x1f;
    if (short < 24) return BigInt(short);
    let number = 0n;
    for (let left = 1 << (short - 24); left > 0; left--) number = (number << 8n) | BigInt(bytes[at++]);
    return number;
  };
  const value = () => {
    const major = bytes[at] >> 5;
    if (major === 7) return bytes[at++] === 0xf5;
    const number = argument();
    if (major === 0) return number;
    if (major === 1) return -1n - number;
    if (major !== 2) throw new Error("a header has no such item");
    at += Number(number);
    return bytes.subarray(at - Number(number), at);
  };
  if (bytes[at] >> 5 !== 5) throw new Error("a header is a map");
  const fields = [];
  for (let pairs = Number(argument()), key = 1; key <= pairs; key++) {
    if (value() !== BigInt(key)) throw new Error("a header's keys are 1, 2, 3 …");
    fields.push(value());
  }
  if (at !== bytes.length || fields.length !== 16) throw new Error("a header has sixteen fields and no more");
  return { recipients: fields[14], keyCommitment: fields[15] };
}

export async function recipientListDigest(recipients) {
  return sha256(text("darkbloom/v1/recipients"), ...recipients.flatMap(({ provider, epoch }) => [provider, epoch]));
}

async function wrapAad(header, body, recipients) {
  return concat(await sha256(header), await sha256(body), recipients);
}

async function bodyKey(contentKey, headerDigest) {
  return hkdf(headerDigest, contentKey, text("darkbloom/v1/body"), 32);
}

// Opens a request as one of its recipients.
export async function openRequest(privateKey, header, body, encapsulation, wrap) {
  const { recipients, keyCommitment } = readHeader(header);
  const recipientKey = await suite.kem.deserializePrivateKey(privateKey);
  const context = await suite.createRecipientContext({ recipientKey, enc: encapsulation, info: WRAP_INFO });
  const contentKey = new Uint8Array(await context.open(wrap, await wrapAad(header, body, recipients)));
  if (hex(await sha256(text("darkbloom/v1/content-key"), contentKey)) !== hex(keyCommitment)) {
    throw new Error("the content key is not the one in the header");
  }
  const headerDigest = await sha256(header);
  const padded = await decrypt(await bodyKey(contentKey, headerDigest), ZERO_NONCE, headerDigest, body);
  return {
    contentKey,
    plaintext: unpad(padded),
    responseSecret: new Uint8Array(await context.export(text("darkbloom/v1/response"), 32)),
    requestDigest: await sha256(header, body),
  };
}

// Seals a plaintext. `fields` are the header's first fourteen; the last two are made here.
export async function sealRequest(fields, plaintext, recipients) {
  const contentKey = globalThis.crypto.getRandomValues(new Uint8Array(32));
  const list = await recipientListDigest(recipients);
  const header = record([...fields, list, await sha256(text("darkbloom/v1/content-key"), contentKey)]);
  const headerDigest = await sha256(header);
  const padded = pad(plaintext, bodySize(plaintext.length));
  const body = await encrypt(await bodyKey(contentKey, headerDigest), ZERO_NONCE, headerDigest, padded);
  const aad = await wrapAad(header, body, list);
  const wraps = [];
  for (const { provider, epoch, sealingKey } of recipients) {
    const recipientPublicKey = await suite.kem.deserializePublicKey(sealingKey);
    const context = await suite.createSenderContext({ recipientPublicKey, info: WRAP_INFO });
    wraps.push({
      provider,
      epoch,
      encapsulation: new Uint8Array(context.enc),
      ciphertext: new Uint8Array(await context.seal(contentKey, aad)),
      responseSecret: new Uint8Array(await context.export(text("darkbloom/v1/response"), 32)),
    });
  }
  return { header, body, wraps, requestDigest: await sha256(header, body) };
}

// An answer's keys and transcript, from what the provider said when it accepted.
export class Answer {
  static async begin(responseSecret, { requestDigest, provider, epoch, attempt, salt }) {
    const parts = [requestDigest, provider, epoch, u32(attempt)];
    const keys = await hkdf(salt, responseSecret, concat(text("darkbloom/v1/answer"), ...parts), 44);
    const answer = new Answer();
    answer.key = keys.slice(0, 32);
    answer.nonceBase = keys.slice(32);
    answer.transcript = await sha256(text("darkbloom/v1/transcript"), ...parts, salt);
    answer.next = 0;
    answer.ended = false;
    return answer;
  }

  nonce(sequence) {
    const nonce = this.nonceBase.slice();
    u32(sequence).forEach((byte, index) => (nonce[8 + index] ^= byte));
    return nonce;
  }

  async open({ sequence, tokens, end, ciphertext }) {
    if (this.ended || sequence !== this.next) throw new Error("a frame is out of order");
    const aad = concat(u32(sequence), u32(tokens), Uint8Array.of(end ? 1 : 0));
    const padded = await decrypt(this.key, this.nonce(sequence), aad, ciphertext);
    this.transcript = await sha256(this.transcript, aad, ciphertext);
    this.next += 1;
    this.ended = end;
    return unpad(padded);
  }
}

export async function openRefusal(responseSecret, requestDigest, sealed) {
  const info = concat(text("darkbloom/v1/refusal"), requestDigest);
  const key = await hkdf(sealed.subarray(0, 32), responseSecret, info, 32);
  return unpad(await decrypt(key, ZERO_NONCE, requestDigest, sealed.subarray(32)));
}
