// A receiver on Express: verifies with the published library `standardwebhooks`, takes each event once.

const express = require("express");
const { Webhook } = require("standardwebhooks");

const webhook = new Webhook(process.env.WEBHOOK_SECRET);
const app = express();

// In your database: a table whose key is the event's id.
const taken = new Set();

// express.raw, not express.json: a parsed body no longer matches its signature.
app.post("/hooks", express.raw({ type: "*/*", limit: "1mb" }), (request, response) => {
  let event;
  try {
    event = webhook.verify(request.body.toString(), request.headers);
  } catch (error) {
    return response.status(401).send(error.message);
  }
  if (!taken.has(event.id)) {
    taken.add(event.id);
    console.log("received", event.type, event.id);
  }
  response.sendStatus(204);
});

const server = app.listen(process.env.PORT ?? 3000, "127.0.0.1", () => {
  console.log(`Listening on http://127.0.0.1:${server.address().port}`);
});
