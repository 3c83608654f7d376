/**
 * TypeScript as text, for the tidy test: comments, strings and regular expressions are found by a
 * small scanner, so that a word in a comment or a message is not taken for code. Newlines stay
 * where they are, so line numbers hold. It knows no grammar: whether a "/" divides or starts a
 * regular expression is told by what stands before it, which is right for formatted code.
 */

/** One source file in three forms of equal line count. */
export interface SourceText {
  /** Without comments. */
  readonly uncommented: string;
  /** Without comments and without the insides of strings, templates and regular expressions. */
  readonly code: string;
  /** The first comment, if nothing but a `#!` line stands before it. */
  readonly header: string | undefined;
}

/** After these a "/" starts a regular expression. */
const BEFORE_REGEX = /(?:^|[=(,:[!&|?{};+\-*%<>~^]|\b(?:return|case|typeof|in|of|await))\s*$/;

/** Takes a source file apart. */
export function readSource(text: string): SourceText {
  let uncommented = '';
  let code = '';
  let at = 0;
  /** For each open template expression, the depth of braces inside it. */
  const templates: number[] = [];
  const skip = (end: number, keep: 'nothing' | 'text'): void => {
    const piece = text.slice(at, end);
    const blank = piece.replace(/[^\n]/g, ' ');
    uncommented += keep === 'text' ? piece : blank;
    code += blank;
    at = end;
  };
  const template = (): void => {
    // From the backtick, or from the "}" of an expression, to the next expression or the end.
    let end = at + 1;
    while (end < text.length && text[end] !== '`' && !text.startsWith('${', end)) {
      end += text[end] === '\\' ? 2 : 1;
    }
    if (text.startsWith('${', end)) templates.push(0);
    skip(Math.min(text.length, text[end] === '`' ? end + 1 : end + 2), 'text');
  };
  while (at < text.length) {
    const character = text[at] as string;
    const depth = templates.at(-1);
    if (text.startsWith('//', at)) {
      skip(endOf(text, '\n', at), 'nothing');
    } else if (text.startsWith('/*', at)) {
      skip(Math.min(text.length, endOf(text, '*/', at + 2) + 2), 'nothing');
    } else if (character === "'" || character === '"') {
      skip(endOfQuoted(text, at, character), 'text');
    } else if (character === '/' && BEFORE_REGEX.test(code.slice(-40))) {
      skip(endOfRegex(text, at), 'text');
    } else if (character === '`') {
      template();
    } else if (character === '}' && depth === 0) {
      templates.pop();
      template();
    } else {
      if (depth !== undefined && character === '{') templates[templates.length - 1] = depth + 1;
      if (depth !== undefined && character === '}') templates[templates.length - 1] = depth - 1;
      uncommented += character;
      code += character;
      at += 1;
    }
  }
  const header = /^(?:#!.*\n)?\s*(\/\*\*[\s\S]*?\*\/|\/\/.*)/.exec(text)?.[1];
  return { uncommented, code, header };
}

/** The modules that a source imports or exports from, in order, dynamic imports too. */
export function importsOf(source: SourceText): string[] {
  const pattern = /\b(?:from|import)\s*\(?\s*'([^'\n]+)'/g;
  return [...source.uncommented.matchAll(pattern)]
    .filter((match) => /^(?:from|import)/.test(source.code.slice(match.index)))
    .map((match) => match[1] as string);
}

function endOf(text: string, what: string, from: number): number {
  const found = text.indexOf(what, from);
  return found === -1 ? text.length : found;
}

function endOfQuoted(text: string, start: number, quote: string): number {
  let end = start + 1;
  while (end < text.length && text[end] !== quote && text[end] !== '\n') {
    end += text[end] === '\\' ? 2 : 1;
  }
  return Math.min(text.length, end + 1);
}

function endOfRegex(text: string, start: number): number {
  let end = start + 1;
  let inClass = false;
  while (end < text.length && text[end] !== '\n' && (inClass || text[end] !== '/')) {
    if (text[end] === '[') inClass = true;
    if (text[end] === ']') inClass = false;
    end += text[end] === '\\' ? 2 : 1;
  }
  return Math.min(text.length, end + 1);
}
