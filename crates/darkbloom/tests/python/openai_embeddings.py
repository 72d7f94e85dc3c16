"""The official OpenAI client against `darkbloom start --local`: BASE_URL, API_KEY, MODEL, and CHAT_MODEL that answers."""

import asyncio
import math
import os
import struct

import openai
from openai import AsyncOpenAI, OpenAI

BASE, KEY, MODEL = os.environ["BASE_URL"], os.environ["API_KEY"], os.environ["MODEL"]
client = OpenAI(base_url=BASE, api_key=KEY, max_retries=0)


def by_default_it_asks_for_base64_and_gets_what_numbers_say():
    # Without `encoding_format` this client asks for base64, and decodes it by itself.
    made = client.embeddings.create(model=MODEL, input=["What is 17 + 25?", "a flower"])
    plain = client.embeddings.create(model=MODEL, input=["What is 17 + 25?", "a flower"], encoding_format="float")
    assert [item.index for item in made.data] == [0, 1], made.data
    for one, other in zip(made.data, plain.data, strict=True):
        assert list(one.embedding) == [to_single(number) for number in other.embedding]
        assert abs(math.fsum(number * number for number in one.embedding) - 1) < 1e-5
    assert made.data[0].embedding != made.data[1].embedding
    assert made.usage.prompt_tokens == made.usage.total_tokens > 0, made.usage
    assert made.model == MODEL and made.object == "list"


def to_single(number):
    return struct.unpack("<f", struct.pack("<f", number))[0]


def one_text_and_tokens_are_taken():
    text = client.embeddings.create(model=MODEL, input="a flower")
    assert len(text.data) == 1
    tokens = client.embeddings.create(model=MODEL, input=[[5, 6], [7]])
    assert len(tokens.data) == 2 and tokens.usage.prompt_tokens == 3
    assert len(client.embeddings.create(model=MODEL, input=[5, 6]).data) == 1


def errors_are_the_clients_own_exceptions():
    def refused(kind, code, **changes):
        try:
            client.embeddings.create(**{"model": MODEL, "input": "a", **changes})
        except kind as error:
            assert error.code == code, error
            return error
        raise AssertionError(f"{changes} was answered")

    refused(openai.NotFoundError, "model_not_found", model="nobody")
    refused(openai.BadRequestError, "invalid_request", model=os.environ["CHAT_MODEL"])
    refused(openai.BadRequestError, "invalid_request", dimensions=3)
    long = refused(openai.BadRequestError, "context_length_exceeded", input=["a", "apple " * 3000])
    assert long.param == "input" and "input[1]" in long.message, long


async def eight_at_once():
    texts = [f"What is {number} + {number}?" for number in range(8)]
    alone = [client.embeddings.create(model=MODEL, input=text).data[0].embedding for text in texts]
    async with AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0) as many:
        together = await asyncio.gather(*(many.embeddings.create(model=MODEL, input=text) for text in texts))
    for one, other in zip(alone, together, strict=True):
        assert list(one) == list(other.data[0].embedding)


by_default_it_asks_for_base64_and_gets_what_numbers_say()
one_text_and_tokens_are_taken()
errors_are_the_clients_own_exceptions()
asyncio.run(eight_at_once())
print(f"openai {openai.__version__}: all passed")
