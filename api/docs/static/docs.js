"use strict";
// Draws /openapi.json. Text only ever enters the page as text nodes.

const METHODS = ["get", "post", "put", "patch", "delete"];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Splits `code` in backquotes out of a sentence. */
function prose(text = "") {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

const nameOf = (reference) => reference.split("/").pop();

/** One line that says what a schema allows. */
function kindOf(schema = {}) {
  if (schema.$ref) return [make("a", { href: `#schema-${nameOf(schema.$ref)}` }, nameOf(schema.$ref))];
  if (schema.anyOf) return schema.anyOf.flatMap((choice, index) => [...(index ? [" or "] : []), ...kindOf(choice)]);
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.join(" | ") + (schema.default === undefined ? "" : `, default ${schema.default}`)];
  if (schema.type === "array") return ["list of ", ...kindOf(schema.items)];
  if (schema.type === "object" && schema.additionalProperties) {
    const names = schema.propertyNames?.enum;
    return [names ? `${names.join(", ")}: ` : "any names: ", ...kindOf(schema.additionalProperties)];
  }
  const range = [
    [schema.minimum !== undefined && `from ${schema.minimum}`, schema.maximum !== undefined && `to ${schema.maximum}`]
      .filter(Boolean).join(" "),
    schema.maxLength !== undefined && `at most ${schema.maxLength} characters`,
    schema.default !== undefined && `default ${JSON.stringify(schema.default)}`,
  ].filter(Boolean);
  return [[schema.format || schema.type || "any", ...range].join(", ")];
}

function row(name, schema, description, required) {
  const left = make("td", {}, make("code", {}, name));
  if (required) left.append(" ", make("span", { class: "required" }, "required"));
  const right = make("td", {}, make("span", { class: "kind" }, ...kindOf(schema)));
  if (description) right.append(make("br"), ...prose(description));
  return make("tr", {}, left, right);
}

function properties(schema) {
  const required = schema.required || [];
  return make("table", {}, ...Object.entries(schema.properties || {}).map(
    ([name, property]) => row(name, property, property.description, required.includes(name))));
}

function example(method, path, operation, secured) {
  const target = path.replace(/{(\w+)}/g, (_, name) => `$${name.toUpperCase()}`); // curl itself would expand braces
  const lines = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}"$DISTILDIRE_API_URL${target}"`];
  if (secured) lines.push('  -H "Authorization: Bearer $DISTILDIRE_API_KEY"');
  const body = operation.requestBody?.content || {};
  if (body["multipart/form-data"]) lines.push("  -F image=@photo.jpg");
  if (body["application/json"]) lines.push(`  --json '{"url": "https://example.com/hook"}'`);
  return make("pre", {}, lines.join(" \\\n"));
}

function bodyOf(operation, schemas) {
  return Object.entries(operation.requestBody?.content || {}).flatMap(([type, { schema }]) => [
    make("h4", {}, `Body: ${type}`),
    properties(schema.$ref ? schemas[nameOf(schema.$ref)] : schema),
  ]);
}

function answersOf(operation) {
  return make("table", {}, ...Object.entries(operation.responses).map(([status, response]) => {
    const contents = Object.entries(response.content || {}).map(([type, { schema }]) =>
      make("div", { class: "kind" }, `${type}: `, ...kindOf(schema)));
    return make("tr", {}, make("td", {}, make("code", {}, status)), make("td", {}, ...prose(response.description), ...contents));
  }));
}

function article(method, path, operation, schemas) {
  const secured = !(operation.security && operation.security.length === 0);
  const heading = make("h3", {}, make("span", { class: `method ${method}` }, method.toUpperCase()), make("span", { class: "path" }, path));
  if (!secured) heading.append(make("span", { class: "open" }, "no key needed"));
  const parts = [heading, make("p", {}, make("strong", {}, ...prose(operation.summary)))];
  if (operation.description) parts.push(make("p", {}, ...prose(operation.description)));
  if (operation.parameters.length) {
    parts.push(make("h4", {}, "Parameters"), make("table", {}, ...operation.parameters.map(
      (parameter) => row(parameter.name, parameter.schema, parameter.description, parameter.required))));
  }
  parts.push(...bodyOf(operation, schemas), make("h4", {}, "Try it"), example(method, path, operation, secured));
  parts.push(make("details", {}, make("summary", {}, "Answers"), answersOf(operation)));
  return make("article", { id: operation.operationId }, ...parts);
}

function operationsOf(document) {
  return Object.entries(document.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, operation: item[method] })));
}

function section(title, description, ...children) {
  return make("section", {}, make("h2", {}, title), make("p", {}, ...prose(description)), ...children);
}

function drawTag(tag, operations, schemas, menu, content) {
  const own = operations.filter(({ operation }) => operation.tags?.includes(tag.name));
  menu.append(make("h2", {}, tag.name), ...own.map(({ method, operation }) =>
    make("a", { href: `#${operation.operationId}` },
      make("span", { class: `method ${method}` }, method.toUpperCase()), make("span", {}, operation.summary.replace(/\.$/, "")))));
  content.append(section(tag.name, tag.description, ...own.map(({ method, path, operation }) => article(method, path, operation, schemas))));
}

function problemsOf(document) {
  return make("article", {}, make("table", {}, ...document["x-problems"].map((problem) =>
    make("tr", { id: `problem-${problem.code}` },
      make("td", {}, make("code", {}, problem.code), make("div", { class: "kind" }, String(problem.status))),
      make("td", {}, ...prose(`${problem.title}. ${problem.remedy}`))))));
}

function schemasOf(schemas) {
  return Object.entries(schemas).filter(([, schema]) => schema.properties).map(([name, schema]) =>
    make("article", { id: `schema-${name}` }, make("h3", {}, make("span", { class: "path" }, name)),
      make("p", {}, ...prose(schema.description)), properties(schema)));
}

function draw(spec) {
  const [menu, content, about] = ["menu", "content", "about"].map((id) => document.getElementById(id));
  const schemas = spec.components.schemas;
  about.append(make("p", {}, ...prose(spec.info.description)),
    make("p", { class: "kind" }, `Version ${spec.info.version} · `, make("a", { href: "/openapi.json" }, "OpenAPI document")),
    make("pre", {}, `export DISTILDIRE_API_URL=${location.origin}\nexport DISTILDIRE_API_KEY=dd_…`));
  const operations = operationsOf(spec);
  for (const tag of spec.tags) drawTag(tag, operations, schemas, menu, content);
  content.append(
    section("Problems", "Every refusal is `application/problem+json` (RFC 9457). Decide by `code`, which is stable.", problemsOf(spec)),
    section("Documents", "What the bodies consist of.", ...schemasOf(schemas)));
  menu.append(make("h2", {}, "Reference"), make("a", { href: "#problem-malformed_request" }, "Problems"), make("a", { href: "#schema-Job" }, "Documents"));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

fetch("/openapi.json")
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`HTTP ${response.status}`))))
  .then(draw)
  .catch((error) => document.getElementById("content").append(make("p", {}, `/openapi.json could not be read: ${error.message}`)));
