// The clipboard, which a frame of another origin may be refused.

/** Whether the text was taken. */
export async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
