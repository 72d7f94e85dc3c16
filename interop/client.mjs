// The client of a conversation over standard input and output, one JSON object a line:
// in: recipients and the header's fields; out: a sealed request; in: an answer; out: what it says.

import { createInterface } from "node:readline";

import { Answer, hex, openRefusal, sealRequest, unhex } from "./darkbloom.mjs";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const receive = async () => {
  const { value, done } = await lines.next();
  if (done) throw new Error("the other side is gone");
  return JSON.parse(value);
};
const send = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const { recipients, fields, plaintext } = await receive();
const value = (field) =>
  field.bytes !== undefined ? unhex(field.bytes) : field.int !== undefined ? BigInt(field.int) : field.bool;
const sealed = await sealRequest(
  fields.map(value),
  unhex(plaintext),
  recipients.map(({ provider, epoch, sealing_key }) => ({
    provider: unhex(provider),
    epoch: unhex(epoch),
    sealingKey: unhex(sealing_key),
  })),
);
send({
  header: hex(sealed.header),
  body: hex(sealed.body),
  wraps: sealed.wraps.map(({ encapsulation, ciphertext }) => ({
    encapsulation: hex(encapsulation),
    ciphertext: hex(ciphertext),
  })),
});

const { acceptance, frames, refusal } = await receive();
const chosen = sealed.wraps.find(({ epoch }) => hex(epoch) === acceptance.epoch);
const answer = await Answer.begin(chosen.responseSecret, {
  requestDigest: sealed.requestDigest,
  provider: unhex(acceptance.provider),
  epoch: unhex(acceptance.epoch),
  attempt: acceptance.attempt,
  salt: unhex(acceptance.salt),
});
const contents = [];
for (const frame of frames) {
  contents.push(hex(await answer.open({ ...frame, ciphertext: unhex(frame.ciphertext) })));
}
send({
  contents,
  ended: answer.ended,
  transcript: hex(answer.transcript),
  refusal: hex(await openRefusal(chosen.responseSecret, sealed.requestDigest, unhex(refusal))),
});
process.stdin.destroy();
