// What this browser remembers of the reader. Where it grants a page no storage, as in some frames, nothing is, and the page
// goes on without.
//
//   remembered(key)        the text, or null
//   remember(key, text)

export function remembered(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function remember(key: string, text: string): void {
  try {
    localStorage.setItem(key, text);
  } catch {
    return;
  }
}
