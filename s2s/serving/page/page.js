// The page of s2s-serve. All that comes from the server or the user is inserted as text.
"use strict";

const FIRST = ["beam_size", "n_best", "length_penalty"];  // options that are shown at once
let model, description;

const $ = (id) => document.getElementById(id);

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Options

function schemas() {
  const post = description.paths["/v1/translate"].post;
  if (post.parameters) return Object.fromEntries(post.parameters.map((each) => [each.name, each.schema]));
  return post.requestBody.content["application/json"].schema.properties;
}

function field(name, schema, value) {
  const label = element("label", "", name.replaceAll("_", " ") + " ");
  let input;
  if (schema.enum) {
    input = element("select");
    for (const choice of schema.enum) input.append(element("option", "", choice));
    input.value = value;
  } else {
    input = element("input");
    if (schema.type === "boolean") {
      input.type = "checkbox";
      input.checked = value;
    } else {
      input.type = "number";
      input.step = schema.type === "integer" ? 1 : "any";
      input.value = value;
      if (schema.minimum !== undefined) input.min = schema.minimum;
      if (schema.maximum !== undefined) input.max = schema.maximum;
    }
  }
  input.id = "option-" + name;
  label.title = schema.description || "";
  label.append(input);
  return label;
}

function choices(name, values) {
  const label = element("label", "", name.replaceAll("_", " ") + " ");
  const select = element("select");
  select.id = "tag-" + name;
  for (const value of values) select.append(element("option", "", value));
  label.append(select);
  return label;
}

function asked() {
  const options = {hypotheses: true};
  if (model.attention) options.attention = true;
  for (const [name, value] of Object.entries(model.options)) {
    const input = $("option-" + name);
    const given = input.type === "checkbox" ? input.checked : input.type === "number" ? Number(input.value) : input.value;
    if (given !== value && input.value !== "") options[name] = given;
  }
  return options;
}

function tags() {
  return Object.fromEntries(Object.keys(model.tags).map((name) => [name, $("tag-" + name).value]));
}

// Requests

async function answer(path, options) {
  const response = await fetch(path, options);
  const content = await response.json();
  if (!response.ok) throw new Error(content.error || response.statusText);
  return content;
}

async function* events(path, content) {  // server-sent events: their names and contents
  const response = await fetch(path, {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(content)});
  if (!response.ok) throw new Error((await response.json()).error || response.statusText);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    rest += piece.value;
    for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
      const [, name, data] = rest.slice(0, end).match(/^event: (.*)\ndata: ([^]*)$/);
      rest = rest.slice(end + 2);
      yield [name, JSON.parse(data)];
    }
  }
  throw new Error("the connection was lost");
}

async function translateLines(lines) {  // each line is shown as soon as it is translated
  const content = {...asked(), lines, tags: tags(), stream: true};
  if ($("prefix").value) content.prefixes = lines.map(() => $("prefix").value);
  const places = [];
  let done = 0;
  for await (const [name, news] of events("v1/translate", content)) {
    if (name === "error") throw new Error(news.error);
    if (!places.length) places.push(...lines.map(begun));
    if (name === "end") return;
    fill(places[news.line - 1], news.translation, news.error);
    $("state").textContent = `${++done} of ${lines.length} lines`;
  }
}

function translateRecording(file) {
  const query = new URLSearchParams(asked());
  for (const [name, value] of Object.entries(tags())) query.append("tags", `${name}=${value}`);
  if ($("prefix").value) query.append("prefixes", $("prefix").value);
  const kind = file.type.startsWith("audio/") ? file.type : "audio/wav";
  return answer("v1/translate?" + query, {method: "POST", headers: {"content-type": kind}, body: file});
}

// Results

function token(text, className) {
  return element("span", "token " + className, text === "" ? " " : text);
}

function show(hypothesis) {
  const place = element("div", "hypothesis");
  const text = element("span", "text", hypothesis.text);
  text.dir = "auto";
  const score = hypothesis.score === null ? "" : hypothesis.score.toFixed(4);
  place.append(text, " ", element("span", "score", `score ${score}${hypothesis.truncated ? ", cut off" : ""}`));
  const written = element("span", "tokens written");
  const read = element("span", "tokens read");
  const sources = (hypothesis.source_tokens || []).map((each) => token(each, ""));
  read.append(...sources);
  hypothesis.tokens.forEach((each, number) => {
    const one = token(each, "");
    const log = hypothesis.token_log_probabilities[number];
    one.tabIndex = 0;
    one.title = log === null ? "" : `log-probability ${log.toFixed(4)}, probability ${Math.exp(log).toFixed(4)}`;
    one.style.backgroundColor = `rgba(213, 94, 0, ${log === null ? 0 : 0.9 * (1 - Math.exp(log))})`;
    const row = (hypothesis.attention || [])[number] || [];
    const attend = (on) => () => sources.forEach((source, position) => {
      source.style.backgroundColor = on ? `rgba(0, 114, 178, ${row[position] || 0})` : "";
      source.title = on && position in row ? `attention ${row[position].toFixed(4)}` : "";
    });
    one.addEventListener("mouseenter", attend(true));
    one.addEventListener("focus", attend(true));
    one.addEventListener("mouseleave", attend(false));
    one.addEventListener("blur", attend(false));
    written.append(one);
  });
  place.append(written);
  if (sources.length) place.append(read);
  return place;
}

function begun(name) {  // the place of a line
  const line = element("div", "line");
  const source = element("div", "source", name);
  source.dir = "auto";
  line.append(source);
  $("results").append(line);
  return line;
}

function fill(line, hypotheses, error) {
  if (hypotheses === null) line.append(element("div", "error", error));
  else line.append(...hypotheses.map(show));
}

async function translate(event) {
  event.preventDefault();
  $("error").textContent = "";
  $("results").replaceChildren();
  $("state").textContent = "translating …";
  $("translate").disabled = true;
  const start = performance.now();
  try {
    if (model.reads === "lines") {
      const lines = $("lines").value.replace(/\n$/, "").split("\n");
      await translateLines(lines);
    } else {
      const file = $("recording").files[0];
      if (!file) throw new Error("choose a recording");
      const content = await translateRecording(file);
      fill(begun(file.name), content.translations[0], (content.errors || [{}])[0].error);
    }
    $("state").textContent = `${((performance.now() - start) / 1000).toFixed(2)} s`;
  } catch (error) {
    $("state").textContent = "";
    $("error").textContent = error.message;
  }
  $("translate").disabled = false;
}

async function begin() {
  try {
    [model, description] = [(await answer("v1/models")).data[0], await answer("openapi.json")];
  } catch (error) {
    $("error").textContent = error.message;
    return;
  }
  $("model").textContent = document.title = model.id;
  $("about").textContent = `${model.parameters.toLocaleString("en")} parameters; reads ${model.reads}` +
    (model.sources > 1 ? `, each of ${model.sources} sources with a tab between two` : "");
  $("text").hidden = model.reads !== "lines";
  $("sound").hidden = model.reads === "lines";
  const known = schemas();
  for (const [name, value] of Object.entries(model.options)) {
    $(FIRST.includes(name) ? "options" : "more").append(field(name, known[name], value));
  }
  for (const [name, values] of Object.entries(model.tags)) $("tags").append(choices(name, values));
  $("form").addEventListener("submit", translate);
  document.body.dataset.ready = "true";
}

begin();
