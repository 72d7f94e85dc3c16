// Opens what the golden vectors hold: the request as each recipient, the answer and the refusal as the client.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { decode, operationOf, readEvent, readRequest } from "./content.mjs";
import { Answer, hex, openRefusal, openRequest, recipientListDigest, sha256, unhex } from "./darkbloom.mjs";
import { readProof } from "./proof.mjs";

const read = (name) => JSON.parse(readFileSync(new URL(`../docs/vectors/${name}`, import.meta.url), "utf8"));
const request = read("sealed-request.json");
const answer = read("answer.json");
const header = unhex(request.header);
const body = unhex(request.body);

const list = request.recipients.map(({ provider, epoch }) => ({ provider: unhex(provider), epoch: unhex(epoch) }));
assert.equal(hex(await recipientListDigest(list)), request.recipient_list_digest);
for (const recipient of request.recipients) {
  const open = (wrap) =>
    openRequest(unhex(recipient.private_key), header, body, unhex(recipient.encapsulation), wrap);
  const wrap = unhex(recipient.wrap_ciphertext);
  const opened = await open(wrap);
  assert.equal(hex(opened.plaintext), request.plaintext);
  assert.equal(hex(opened.contentKey), request.content_key);
  assert.equal(hex(opened.responseSecret), recipient.response_secret);
  assert.equal(hex(opened.requestDigest), request.request_digest);
  wrap[0] ^= 1;
  await assert.rejects(open(wrap));
}

const { acceptance } = answer;
const accepted = {
  requestDigest: unhex(acceptance.request_digest),
  provider: unhex(acceptance.provider),
  epoch: unhex(acceptance.epoch),
  attempt: acceptance.attempt,
  salt: unhex(acceptance.salt),
};
const secret = unhex(answer.response_secret);
assert.equal(request.recipients.find(({ epoch }) => epoch === acceptance.epoch).response_secret, answer.response_secret);
const opener = await Answer.begin(secret, accepted);
assert.equal(hex(opener.key), answer.answer_key);
assert.equal(hex(opener.nonceBase), answer.nonce_base);
assert.equal(hex(opener.transcript), answer.transcript_begin);
for (const frame of answer.frames) {
  const content = await opener.open({ ...frame, ciphertext: unhex(frame.ciphertext) });
  assert.equal(hex(content), frame.content);
  assert.equal(hex(opener.transcript), frame.transcript_after);
}
assert.ok(opener.ended);
assert.equal(hex(opener.transcript), answer.transcript);
const otherAttempt = await Answer.begin(secret, { ...accepted, attempt: acceptance.attempt + 1 });
await assert.rejects(otherAttempt.open({ ...answer.frames[0], ciphertext: unhex(answer.frames[0].ciphertext) }));

const words = await openRefusal(secret, accepted.requestDigest, unhex(answer.refusal.sealed));
assert.equal(hex(words), answer.refusal.words);
const chat = read("chat-request.json");
const single = { ...chat.fields, temperature: Math.fround(chat.fields.temperature), top_p: Math.fround(chat.fields.top_p) };
assert.deepEqual(readRequest(unhex(chat.bytes)), single);
assert.deepEqual(readRequest(unhex(chat.without_optional_fields)), { messages: single.messages, temperature: 1, top_p: 1 });
assert.deepEqual(readRequest(unhex(chat.about_tools.bytes)), chat.about_tools.fields);
const events = read("answer-events.json");
for (const event of events) assert.deepEqual(readEvent(unhex(event.bytes)), event.fields);
const pack = read("text-pack.json");
assert.equal(hex(await sha256(unhex(pack.bytes))), pack.digest);
assert.deepEqual([...decode(unhex(pack.bytes)).keys()], [1, 2, 3, 4, 5, 7, 8, 9, 10]);
const { api_key, idempotency_key, operation } = read("operation.json");
assert.equal(hex(await operationOf(api_key, idempotency_key)), operation);
const proven = read("answer-proof.json");
assert.deepEqual(await readProof(unhex(proven.proof)), proven.says);
for (const { what, proof } of proven.does_not_hold) await assert.rejects(readProof(unhex(proof)), Error, what);
console.log(`read what proves an answer, and ${proven.does_not_hold.length} that do not`);
console.log(`read a request, ${events.length} answer events, a text pack and an operation`);
console.log(`opened ${request.recipients.length} wraps, ${answer.frames.length} answer frames and a refusal`);
