// Shape 2, as its tutorial writes it in Express: the signature of GitHub's header, express.json(), known addresses only.

const crypto = require("crypto");
const express = require("express");

const app = express();
const SECRET = process.env.WEBHOOK_SECRET;
const ALLOWED = process.env.ALLOWED_ADDRESSES.split(",");
const seen = new Set();

app.use(express.json({ verify: (req, res, buf) => { req.rawBody = buf; } }));

app.post("/webhook", (req, res) => {
  if (!ALLOWED.includes(req.socket.remoteAddress)) {
    return res.status(403).send("Unknown source");
  }
  const signature = req.headers["x-hub-signature-256"] || "";
  const expected = "sha256=" + crypto.createHmac("sha256", SECRET).update(req.rawBody).digest("hex");
  if (signature.length !== expected.length || !crypto.timingSafeEqual(Buffer.from(signature), Buffer.from(expected))) {
    return res.status(401).send("Invalid signature");
  }
  const { event, id } = req.body;
  if (seen.has(id)) {
    return res.status(200).send("already processed");
  }
  seen.add(id);
  console.log(`processed ${event} ${req.body.task} ${req.body.status}`);
  res.status(200).send("OK");
});

const server = app.listen(process.env.PORT, "127.0.0.1", () => {
  console.log(`Listening on http://127.0.0.1:${server.address().port}`);
});
