"""One question by the official OpenAI client, which repeats by itself what it thinks it may: prints what came of it."""

import json
import os

import openai

sent = []
hooks = {"request": [lambda request: sent.append(request.url)]}
client = openai.OpenAI(
    base_url=os.environ["BASE_URL"],
    api_key=os.environ["API_KEY"],
    http_client=openai.DefaultHttpxClient(event_hooks=hooks),
)
said = {}
try:
    client.chat.completions.create(
        model="darkbloom-tiny", messages=[{"role": "user", "content": "What is 17 + 25?"}], temperature=0
    )
except openai.APIStatusError as error:
    said = {"status": error.status_code, "code": error.code}
    said["charge_nano_usd"] = error.body.get("charge_nano_usd")
print(json.dumps({"sent": len(sent), **said}))
