/** TODO */
export async function bootLinux (_socketPath: string, _onProgress: (line: string) => void): Promise<string> { return 'todo' }
