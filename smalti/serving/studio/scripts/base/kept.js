// What is too large for localStorage: the image being edited and its mask, in IndexedDB, so that a reload keeps both.

const NAME = "smalti.studio";
const STORE = "kept";

let opening = null;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

async function run(mode, work) {
  try {
    const base = await open();
    return await new Promise((resolve, reject) => {
      const transaction = base.transaction(STORE, mode);
      const request = work(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = () => reject(transaction.error);
    });
  } catch {
    return undefined; // private windows may have no storage; the page works without
  }
}

export const keep = (key, value) => run("readwrite", (store) => store.put(value, key));
export const recall = (key) => run("readonly", (store) => store.get(key));
export const forget = (key) => run("readwrite", (store) => store.delete(key));
