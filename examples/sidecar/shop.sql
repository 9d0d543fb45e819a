-- A small shop: what anyone may see, what some may see, and what must not leak.
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, category TEXT NOT NULL, price INTEGER NOT NULL);
INSERT INTO products VALUES
  (1, 'Kettle', 'kitchen', 3900), (2, 'Teapot', 'kitchen', 2900), (3, 'Lamp', 'living', 4900),
  (4, 'Rug', 'living', 12900), (5, 'Desk', 'office', 24900);

CREATE TABLE orders (id INTEGER PRIMARY KEY, product INTEGER NOT NULL, quantity INTEGER NOT NULL, day TEXT NOT NULL);
INSERT INTO orders VALUES
  (1, 1, 2, '2026-01-07'), (2, 3, 1, '2026-01-07'), (3, 5, 1, '2026-01-08'), (4, 2, 4, '2026-01-09');

CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, phone TEXT);
INSERT INTO customers VALUES
  (1, 'Ada Example', 'ada@example.com', '+44 20 7946 0001'), (2, 'Bob Example', 'bob@example.com', '+44 20 7946 0002');
