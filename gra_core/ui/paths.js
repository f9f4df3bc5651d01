(files, paths, ...others) => [null, JSON.stringify((files ?? []).map((file) => file.path)), ...others]
