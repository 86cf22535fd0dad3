// Replaces the parts of the page as the daemon sends them, and says so when it does not. What is replaced is HTML that
// the daemon has escaped; the page is whole without this script.
"use strict";

const SILENCE = 5000; // ms; the daemon sends a line a second
const PAUSE = 3000;
const connection = document.getElementById("connection");
let source, timer;

function tell(isConnected, words) {
  document.documentElement.classList.toggle("disconnected", !isConnected);
  connection.className = isConnected ? "ok" : "bad";
  if (connection.textContent !== words) connection.textContent = words;
  const headline = document.querySelector("h1").textContent;
  document.title = `${isConnected ? "" : "Disconnected. "}${headline} – cht-rapidpro`;
}

function lose() {
  source.close();
  tell(false, "Disconnected: this is how it was. Trying again…");
  clearTimeout(timer);
  timer = setTimeout(connect, PAUSE);
}

function connect() {
  source = new EventSource("/events");
  source.onerror = lose;
  source.onmessage = (event) => {
    for (const [id, html] of Object.entries(JSON.parse(event.data))) document.getElementById(id).innerHTML = html;
    tell(true, "Live");
    clearTimeout(timer);
    timer = setTimeout(lose, SILENCE);
  };
  clearTimeout(timer);
  timer = setTimeout(lose, SILENCE);
}

connect();
