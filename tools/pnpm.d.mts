export const root: string
export function pnpm (args: readonly string[], cwd?: string): void
