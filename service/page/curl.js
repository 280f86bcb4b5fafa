// The curl command of a request, ready for a POSIX shell.

/** The command that sends `body` to `url`. The API key itself is never in it. */
export function curlCommand(url, body, withKey) {
  const headers = ["-H 'Content-Type: application/json'"];
  if (withKey) headers.push('-H "Authorization: Bearer $API_KEY"');
  return [`curl -N ${quoted(url)}`, ...headers, `-d ${quoted(visible(body))}`].join(" \\\n  ");
}

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// JSON leaves these as they are, but a terminal might act on them, or show them in another order.
const HIDDEN = /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

function visible(body) {
  const escape = (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0");
  return JSON.stringify(body, null, 2).replace(HIDDEN, escape);
}
