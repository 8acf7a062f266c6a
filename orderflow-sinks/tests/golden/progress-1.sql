CREATE TABLE "orderflow_progress" (
  "pipeline" TEXT NOT NULL,
  "view" TEXT NOT NULL,
  "target" TEXT NOT NULL,
  "ledger" TEXT,
  "generation" BIGINT,
  "written_by" BIGINT,
  "epoch" BIGINT,
  "part" BIGINT,
  PRIMARY KEY ("pipeline", "view", "target")
);
INSERT INTO orderflow_progress VALUES ('test', 'view', 'orders', '00000000000000000000000000000001', 2, 1, 3, 0);
