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

function translateLines(lines) {
  const content = {...asked(), lines, tags: tags()};
  if ($("prefix").value) content.prefixes = lines.map(() => $("prefix").value);
  return answer("v1/translate", {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(content)});
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

function showAll(content, names) {
  const errors = Object.fromEntries((content.errors || []).map((each) => [each.line, each.error]));
  content.translations.forEach((hypotheses, number) => {
    const line = element("div", "line");
    const source = element("div", "source", names[number]);
    source.dir = "auto";
    line.append(source);
    if (hypotheses === null) line.append(element("div", "error", errors[number + 1]));
    else line.append(...hypotheses.map(show));
    $("results").append(line);
  });
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
      showAll(await translateLines(lines), lines);
    } else {
      const file = $("recording").files[0];
      if (!file) throw new Error("choose a recording");
      showAll(await translateRecording(file), [file.name]);
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
