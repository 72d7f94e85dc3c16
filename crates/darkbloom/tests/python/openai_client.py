"""The official OpenAI client against a gateway: BASE_URL, API_KEY, and POOR_KEY of an account without money."""

import asyncio
import json
import os

import openai
from openai import AsyncOpenAI, OpenAI

BASE, KEY = os.environ["BASE_URL"], os.environ["API_KEY"]
MODEL = "darkbloom-tiny"
client = OpenAI(base_url=BASE, api_key=KEY, max_retries=0)


def question(text):
    return {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": text}]}


def expect(error, status, code, call):
    try:
        call()
    except error as refused:
        assert refused.status_code == status, refused
        assert refused.code == code, refused
        assert refused.request_id, "the request id is in the header"
        return refused
    raise AssertionError(f"{error.__name__} was expected")


def a_plain_call():
    raw = client.chat.completions.with_raw_response.create(**question("What is 17 + 25?"))
    assert raw.headers["x-darkbloom-asserted-by"] == "gateway"
    assert "x-darkbloom-verified-by" not in raw.headers, "this program verified nothing"
    answer = raw.parse()
    assert answer.choices[0].message.content == "42", answer
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def a_stream_with_usage():
    stream = client.chat.completions.create(
        **question("Count from 3 to 9."), stream=True, stream_options={"include_usage": True}
    )
    text, finish, usage = "", None, None
    for chunk in stream:
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == "3, 4, 5, 6, 7, 8, 9", text
    assert finish == "stop" and usage.completion_tokens > 0, (finish, usage)


def models_are_listed():
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"
    expect(openai.NotFoundError, 404, "model_not_found", lambda: client.models.retrieve("no-such-model"))


def errors_are_the_clients_own_exceptions():
    ask = client.chat.completions.create
    expect(openai.NotFoundError, 404, "model_not_found", lambda: ask(**{**question("Hi"), "model": "nobody"}))
    refused = expect(
        openai.BadRequestError, 400, "unsupported_parameter",
        lambda: ask(**question("Hi"), reasoning_effort="high"),
    )
    assert refused.param == "reasoning_effort", refused
    refused = expect(
        openai.BadRequestError, 400, "context_length_exceeded", lambda: ask(**question("apple " * 3000))
    )
    assert refused.param == "messages", refused
    stranger = OpenAI(base_url=BASE, api_key="db-key-of-nobody", max_retries=0)
    expect(
        openai.AuthenticationError, 401, "invalid_api_key",
        lambda: stranger.chat.completions.create(**question("Hi")),
    )
    poor = OpenAI(base_url=BASE, api_key=os.environ["POOR_KEY"], max_retries=0)
    expect(
        openai.APIStatusError, 402, "insufficient_quota", lambda: poor.chat.completions.create(**question("Hi"))
    )


def an_answer_fits_its_schema():
    schema = {
        "type": "object", "properties": {"sum": {"type": "integer", "maximum": 999, "minimum": 0}},
        "required": ["sum"], "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        **question("What is 17 + 25?"),
        response_format={"type": "json_schema", "json_schema": {"name": "sum", "schema": schema, "strict": True}},
    )
    said = json.loads(answer.choices[0].message.content)
    assert list(said) == ["sum"] and 0 <= said["sum"] <= 999, said
    assert answer.choices[0].finish_reason == "stop", answer


async def sixteen_at_once():
    async with AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0) as many:
        pairs = [(11 + i, 40 - i) for i in range(16)]
        answers = await asyncio.gather(
            *(many.chat.completions.create(**question(f"What is {a} + {b}?")) for a, b in pairs)
        )
    for (a, b), answer in zip(pairs, answers, strict=True):
        assert answer.choices[0].message.content == str(a + b), (a, b, answer)


a_plain_call()
a_stream_with_usage()
models_are_listed()
an_answer_fits_its_schema()
errors_are_the_clients_own_exceptions()
asyncio.run(sixteen_at_once())
print(f"openai {openai.__version__}: all passed")
