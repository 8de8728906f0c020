/** Columns as wide as what is in them; the first is aligned left, the others right. */
export function formatTable (rows: readonly (readonly (string | number)[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => String(row[column]).length)))
  const cell = (text: string, column: number): string => column === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[column]!)
  return rows.map((row) => row.map((value, column) => cell(String(value), column)).join('  ')).join('\n')
}
