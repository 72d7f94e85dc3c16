// Reads what proves an answer as docs/vectors/README.md describes it, with WebCrypto and nothing of ours.

import { decode } from "./content.mjs";
import { concat, hex, sha256, text } from "./darkbloom.mjs";

const subtle = globalThis.crypto.subtle;
const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
const SKEW = 10 * MINUTE;
const RUNS_ON = 30 * MINUTE;

const bytesItem = (bytes) => {
  const length = bytes.length;
  const head = length < 24 ? [0x40 | length] : length < 0x100 ? [0x58, length] : [0x59, length >> 8, length & 0xff];
  return concat(Uint8Array.from(head), bytes);
};

// A COSE_Sign1 object of this kind, by this key: its payload as a map.
async function opened(signed, kind, key) {
  if (signed[0] !== 0xd2) throw new Error("it has no tag 18");
  const [header, unprotected, payload, signature] = decode(signed.subarray(1));
  const algorithm = decode(header).get(1);
  if (unprotected.size !== 0 || decode(header).size !== 1) throw new Error("only the algorithm stands in a header");
  // ["Signature1", protected, domain, payload]; "Signature1" and domains are shorter than 256 bytes.
  if (payload.length > 0xffff) throw new Error("vectors are short");
  const message = concat(
    Uint8Array.of(0x84, 0x6a), text("Signature1"),
    bytesItem(header), bytesItem(text(`darkbloom/v1/${kind}`)), bytesItem(payload),
  );
  const ec = key.length === 65;
  if (algorithm !== (ec ? -7 : -8)) throw new Error("another algorithm than the key's");
  const imported = await subtle.importKey("raw", key, ec ? { name: "ECDSA", namedCurve: "P-256" } : { name: "Ed25519" }, false, ["verify"]);
  const how = ec ? { name: "ECDSA", hash: "SHA-256" } : { name: "Ed25519" };
  if (!(await subtle.verify(how, imported, signature, message))) throw new Error("the signature does not hold");
  return decode(payload);
}

function must(holds, what) {
  if (!holds) throw new Error(what);
}

const same = (one, other) => hex(one) === hex(other);

// What a proof says, when all of it holds. Whom to trust is another matter: evidence is not looked at here.
export async function readProof(bytes) {
  const proof = decode(bytes);
  const [coordinator, signedList, signedStatement, signedReceipt, signedBill] = [1, 2, 3, 4, 5].map((key) => proof.get(key));
  const network = await sha256(coordinator);
  const list = await opened(signedList, "candidate-list", coordinator);
  const entry = await opened(list.get(3), "catalogue-entry", coordinator);
  must(same(list.get(1), network) && same(entry.get(1), network), "another network");

  // [tag, array, header with its head, …]: the key that signed it stands in the payload, at key 1.
  const [, , payload] = decode(signedStatement.subarray(1));
  const statement = await opened(signedStatement, "statement", decode(payload).get(1));
  must(same(statement.get(2), network), "the statement is of another network");
  const provider = await sha256(statement.get(1));
  const time = new Uint8Array(8);
  new DataView(time.buffer).setBigInt64(0, BigInt(statement.get(5)));
  const nonce = await sha256(text("darkbloom/v1/epoch"), statement.get(3), statement.get(4), statement.get(1), time);
  const epoch = nonce.subarray(0, 16);

  const receipt = await opened(signedReceipt, "receipt", statement.get(4));
  const model = await sha256(list.get(3));
  must(same(receipt.get(5), model), "another model");
  must(same(receipt.get(6), entry.get(3)), "other weights");
  must(same(receipt.get(7), provider), "another provider");
  must(same(receipt.get(8), epoch), "another epoch");
  must(statement.get(8).some((named) => same(named, model)), "the statement does not name the model");
  const ended = receipt.get(14);
  must(ended + SKEW >= statement.get(5) && ended <= statement.get(7) + RUNS_ON + SKEW, "not in the epoch's time");

  const bill = await opened(signedBill, "bill", coordinator);
  const receiptId = await sha256(signedReceipt);
  must(same(bill.get(3), receiptId) && same(bill.get(2), receipt.get(2)), "the bill is about something else");
  const [version, input, output] = bill.get(4);
  must(bill.get(7) === receipt.get(9) && bill.get(8) === receipt.get(10), "other counts");
  must(bill.get(6) === input * bill.get(7) + output * bill.get(8), "another charge than the tokens cost");
  must(bill.get(6) <= bill.get(5), "a charge over the hold");
  must(list.get(4)[0] !== version || list.get(4).join() === bill.get(4).join(), "another price of the same version");
  const inOrder = (earlier, later) => earlier <= later + SKEW && later - earlier <= DAY;
  must(inOrder(list.get(2), ended) && inOrder(ended, bill.get(9)), "not of one time");
  return {
    network: hex(network), provider: hex(provider), epoch: hex(epoch), model: entry.get(2), catalogue_digest: hex(model),
    weights: hex(entry.get(3)), request_digest: hex(receipt.get(1)), transcript: hex(receipt.get(4)),
    receipt_id: hex(receiptId), input_tokens: receipt.get(9), output_tokens: receipt.get(10),
    charge_nano_usd: bill.get(6), finished_at: ended, settled_at: bill.get(9),
  };
}
